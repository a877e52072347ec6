package train

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"tarbert/internal/spec"
)

// The group trainer is a deterministic trainer of several processes: rank 0
// leads, the others compute their share of each step's gradient and are waited
// for, as in a collective. A plan of faults says what goes wrong where; each
// is written to truth.jsonl when it is done, so that detection can be scored.

const (
	groupWidth = 16 // weights
	groupSteps = 60
	groupEvery = 10
)

// planted is a fault to inject.
type planted struct {
	Kind  string  `json:"kind"`
	Step  int     `json:"step"` // before or in this step
	Rank  int     `json:"rank"`
	Times int     `json:"times"` // how often it strikes; 0 = always
	X     float64 `json:"x"`
}

// truth is a fault that was injected.
type truth struct {
	Kind string    `json:"kind"`
	Step int       `json:"step"`
	Rank int       `json:"rank"`
	At   time.Time `json:"at"`
}

// groupPlan is plan.json in the notes folder.
type groupPlan struct {
	Ranks  int           `json:"ranks"`
	Pace   time.Duration `json:"pace"` // of a step
	Faults []planted     `json:"faults"`
	Seed   uint64        `json:"seed"`
	Skip   []int         `json:"skip"` // steps that a twin leaves out as the supervisor asked the other to
	Parity float64       `json:"parity"`
	Silent bool          `json:"silent"` // no contract, only a log
}

type group struct {
	notes   string
	plan    groupPlan
	recipe  spec.Recipe
	adjust  Adjust
	events  *os.File
	root    string
	step    int
	w       []float64
	offset  int // of the data: a sampler that lost its place
	members []*member
	term    chan os.Signal
}

// member is another rank's process, seen from rank 0.
type member struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func runGroup(notes string) int {
	g := &group{notes: notes, root: os.Getenv("TARBERT_CHECKPOINTS"), term: make(chan os.Signal, 1)}
	signal.Notify(g.term, syscall.SIGTERM)
	code, err := g.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "trainer:", err)
		if code == 0 {
			code = 90
		}
	}
	return code
}

func (g *group) run() (int, error) {
	if err := g.setUp(); err != nil {
		return 90, err
	}
	if dir := os.Getenv("TARBERT_REPLAY"); dir != "" {
		return 0, g.replay(dir)
	}
	if err := g.fork(); err != nil {
		return 90, err
	}
	for g.step < g.recipe.Steps() {
		select {
		case <-g.term: // a spot notice: save and go
			return 75, g.save()
		default:
		}
		if code, over := g.strike(g.step+1, 0); over {
			return code, nil
		}
		if err := g.next(); err != nil {
			return 91, err
		}
		if g.step%g.recipe.Train.Checkpoint.Every == 0 || g.step == g.recipe.Steps() {
			g.say(map[string]any{"event": "section", "name": "checkpoint"})
			if err := g.save(); err != nil {
				if !g.planned("go-on") { // the policy of this trainer: a save may fail, the run goes on
					return 92, err
				}
				fmt.Fprintln(os.Stderr, "trainer: save failed, going on:", err)
			}
			g.after()
			g.say(map[string]any{"event": "section", "name": "step"})
		}
	}
	g.say(map[string]any{"event": "done", "step": g.step})
	return 0, nil
}

func (g *group) setUp() error {
	b, err := os.ReadFile(filepath.Join(g.notes, "plan.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &g.plan); err != nil {
		return err
	}
	if b, err = os.ReadFile(os.Getenv("TARBERT_RECIPE")); err != nil {
		return err
	}
	if err := json.Unmarshal(b, &g.recipe); err != nil {
		return err
	}
	if path := os.Getenv("TARBERT_ADJUST"); path != "" {
		if b, err = os.ReadFile(path); err != nil {
			return err
		}
		if err := json.Unmarshal(b, &g.adjust); err != nil {
			return err
		}
	}
	if os.Getenv("TARBERT_REPLAY") == "" {
		if err := g.alone(); err != nil {
			return err
		}
	}
	if g.events, err = os.OpenFile(os.Getenv("TARBERT_EVENTS"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return err
	}
	g.say(map[string]any{"event": "section", "name": "setup"})
	g.w = make([]float64, groupWidth)
	for i := range g.w {
		g.w[i] = 1 + float64(i)/groupWidth
	}
	return g.resume(os.Getenv("TARBERT_RESUME"))
}

// alone holds a lock that says: this run has one writer.
func (g *group) alone() error {
	lock, err := os.OpenFile(filepath.Join(g.notes, "writer"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(err, os.WriteFile(filepath.Join(g.notes, "two-writers"), nil, 0o644))
	}
	return nil
}

// fork starts the other ranks.
func (g *group) fork() error {
	for r := 1; r < g.plan.Ranks; r++ {
		cmd := exec.Command(self()[0], "rank", g.notes, strconv.Itoa(r))
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		g.members = append(g.members, &member{cmd: cmd, in: in, out: bufio.NewReader(out)})
		g.say(map[string]any{"event": "rank", "rank": r, "pid": cmd.Process.Pid})
	}
	g.say(map[string]any{"event": "section", "name": "step"})
	return nil
}

// gradient is a rank's share of a step's, of weight i.
func gradient(seed uint64, step, rank, i int, w float64) float64 {
	return (w-math.Sin(float64(i)))/4 + (hash01(seed, step, rank*100+i)-0.5)/8
}

// hash01 is a number from 0 to 1 that looks drawn at random.
func hash01(seed uint64, a, b int) float64 {
	x := seed*0x9e3779b97f4a7c15 + uint64(a)*0xbf58476d1ce4e5b9 + uint64(b)*0x94d049bb133111eb
	x ^= x >> 31
	x *= 0xd6e8feb86659fd93
	x ^= x >> 32
	return float64(x>>11) / (1 << 53)
}

func (g *group) next() error {
	s := g.step + 1
	data := s + g.offset
	if slices.Contains(g.plan.Skip, s) || g.adjust.first() <= s && slices.ContainsFunc(g.adjust.Skip, func(k [2]int) bool { return s >= k[0] && s <= k[1] }) {
		g.step = s
		g.say(map[string]any{"event": "step", "step": s, "tokens": 0, "adjusted": "skip"})
		return nil
	}
	<-time.After(g.plan.Pace)
	grad := make([]float64, groupWidth)
	seconds := []float64{g.rankSeconds(s, 0)}
	for i := range grad {
		grad[i] = gradient(g.plan.Seed, data, 0, i, g.w[i])
	}
	for r, m := range g.members {
		b, err := json.Marshal(map[string]any{"step": s, "data": data, "w": g.w})
		if err != nil {
			return err
		}
		if _, err := m.in.Write(append(b, '\n')); err != nil {
			return g.peerLost(r+1, err)
		}
		line, err := m.out.ReadBytes('\n')
		if err != nil {
			return g.peerLost(r+1, err)
		}
		var share []*float64
		if err := json.Unmarshal(line, &share); err != nil {
			return err
		}
		for i := range grad {
			if share[i] == nil {
				grad[i] = math.NaN()
			} else {
				grad[i] += *share[i]
			}
		}
		seconds = append(seconds, g.rankSeconds(s, r+1))
	}
	g.update(s, data, grad, seconds)
	return nil
}

// peerLost is what a rank does whose peer is gone: a collective would wait, so
// does it, if the plan says so; else it ends.
func (g *group) peerLost(r int, err error) error {
	if g.planned("waits-for-peers") {
		select {}
	}
	return fmt.Errorf("rank %d is gone: %w", r, err)
}

func (g *group) planned(kind string) bool {
	return slices.ContainsFunc(g.plan.Faults, func(f planted) bool { return f.Kind == kind })
}

// rankSeconds is what a rank is said to have taken: nominal, so that a busy
// machine does not decide the test.
func (g *group) rankSeconds(step, r int) float64 {
	t := 0.1 * (1 + 0.02*(hash01(g.plan.Seed+77, step, r)-0.5))
	for _, f := range g.plan.Faults {
		if f.Kind == "slow" && f.Rank == r && step >= f.Step {
			t *= f.X
		}
	}
	return t
}

func (g *group) update(s, data int, grad []float64, seconds []float64) {
	if g.strikes("spike", s, 0) { // the update goes wrong, and the loss stays high
		for i := range g.w {
			g.w[i] = 40
		}
	}
	loss, norm := 0.0, 0.0
	scale := 0.2
	for _, r := range g.adjust.Rate {
		if s >= r.From && s <= r.To {
			scale *= r.Scale
		}
	}
	for i := range g.w {
		d := g.w[i] - math.Sin(float64(i))
		loss += d * d / groupWidth
		norm += grad[i] * grad[i]
		g.w[i] -= scale * grad[i] / float64(max(g.plan.Ranks, 1))
	}
	g.step = s
	loss += 0.5 + 0.1*hash01(g.plan.Seed+5, data, 0)
	if g.strikes("bad-batch", s, 0) { // one batch with a high loss that does no harm
		loss *= 10
	}
	for _, f := range g.plan.Faults {
		if f.Kind == "drift" && s >= f.Step {
			loss += f.X * float64(s-f.Step)
		}
	}
	e := map[string]any{"event": "step", "step": s, "loss": number(loss), "grad_norm": number(math.Sqrt(norm)), "tokens": 64,
		"data": fmt.Sprintf("%d", data), "rank_seconds": seconds}
	if g.strikes("nan-norm", s, 0) {
		e["grad_norm"] = nil
	}
	if scale != 0.2 {
		e["adjusted"] = "lr"
	}
	if g.plan.Silent {
		fmt.Printf("step: %d  loss: %.5f  grad_norm: %.4f\n", s, loss, math.Sqrt(norm))
	}
	g.say(e)
	for _, f := range g.plan.Faults {
		if f.Kind == "mismatch" && s >= f.Step {
			g.say(map[string]any{"event": "mismatch", "step": s, "mean_abs_dlogp": f.X})
		}
	}
}

// number is null where JSON has no word for it.
func number(x float64) any {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return x
}

func (g *group) say(e map[string]any) {
	if g.plan.Silent {
		return
	}
	b, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(g.events, "%s\n", b)
}

// strikes says whether a fault comes now, and writes down that it did.
func (g *group) strikes(kind string, step, r int) bool {
	for i, f := range g.plan.Faults {
		if f.Kind != kind || f.Step != step || f.Rank != r {
			continue
		}
		if !g.count(i, f) {
			continue
		}
		g.confess(truth{Kind: kind, Step: step, Rank: r, At: time.Now()})
		return true
	}
	return false
}

// count is true while the fault has times left.
func (g *group) count(i int, f planted) bool {
	if f.Times == 0 {
		return true
	}
	for n := range f.Times {
		file, err := os.OpenFile(filepath.Join(g.notes, fmt.Sprintf("did-%d-%d", i, n)), os.O_CREATE|os.O_EXCL, 0o644)
		if err == nil {
			file.Close()
			return true
		}
	}
	return false
}

func (g *group) confess(x truth) {
	b, err := json.Marshal(x)
	if err != nil {
		panic(err)
	}
	f, err := os.OpenFile(filepath.Join(g.notes, "truth.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintf(f, "%s\n", b)
}
