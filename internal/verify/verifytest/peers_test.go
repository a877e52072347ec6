package verifytest_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tarbert/internal/gate"
	"tarbert/internal/verify/verifytest"
)

// The peers' settings: what each is used with, at about the tokens of one stage
// of ours (64 prompts of 128).
const (
	questions      = 50
	answerLength   = 4
	greedyLength   = 64
	closeLength    = 32
	closeTop       = 5
	sampledPrompts = 16
	samples        = 10
	sampleLength   = 50
	finishLength   = 96
	klLimit        = 5e-3
)

var peerNames = []string{"benchmark", "greedy", "logprobs close", "KL 5e-3", "MMD", "agreement"}

// written is what one deployment answered to everything that the peers ask.
type written struct {
	right    []bool               // per question
	greedy   []verifytest.Written // per prompt
	sampled  [][][]int            // per prompt, sample
	finished []bool               // per prompt, at temperature 0.6
	tokens   map[string]int       // written or read, per peer
}

// peers asks deployments what the peers ask.
type peers struct {
	b         *bench
	heads     [][]int
	cloze     [][]int // prompts of questions
	answers   [][]int
	reference written
	repeat    float64 // mean F1 of the reference's finishes with its own at other seeds
}

func newPeers(t testing.TB, b *bench, texts []verifytest.Text) *peers {
	t.Helper()
	p := &peers{b: b}
	for i := range b.prompts {
		p.heads = append(p.heads, b.prompts[i][:b.from[i]])
	}
	for _, x := range texts {
		whole := b.tok.Encode(x.Prompt + x.Rest)
		at := len(whole) * 2 / 3
		p.cloze, p.answers = append(p.cloze, whole[:at]), append(p.answers, whole[at:at+answerLength])
	}
	p.reference = p.ask(t, b.floor.Engine, 1)
	const repeats = 4
	for i := range uint64(repeats) {
		p.repeat += verifytest.F1(p.reference.finished, p.finishes(t, b.floor.Engine, 500+100*i)) / repeats
	}
	return p
}

func (p *peers) write(t testing.TB, e *verifytest.Engine, prompts [][]int, most int, temperature float64, seed uint64, top int) []verifytest.Written {
	t.Helper()
	got, err := e.Write(t.Context(), prompts, most, temperature, seed, top)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (p *peers) finishes(t testing.TB, e *verifytest.Engine, seed uint64) []bool {
	var out []bool
	for _, w := range p.write(t, e, p.heads, finishLength, 0.6, seed, 0) {
		out = append(out, w.Ended)
	}
	return out
}

func (p *peers) ask(t testing.TB, e *verifytest.Engine, seed uint64) written {
	t.Helper()
	w := written{tokens: map[string]int{}}
	for i, a := range p.write(t, e, p.cloze, answerLength, 0, 1, 0) {
		w.right = append(w.right, slices.Equal(a.Tokens, p.answers[i]))
		w.tokens["benchmark"] += len(p.cloze[i]) + len(a.Tokens)
	}
	w.greedy = p.write(t, e, p.heads, greedyLength, 0, 1, closeTop)
	for _, g := range w.greedy {
		w.tokens["greedy"] += len(g.Tokens)
		w.tokens["logprobs close"] += min(closeLength, len(g.Tokens))
	}
	var many [][]int
	for _, h := range p.heads[:sampledPrompts] {
		many = append(many, slices.Repeat([][]int{h}, samples)...)
	}
	for i, s := range p.write(t, e, many, sampleLength, 1, 1000*seed, 0) {
		if i%samples == 0 {
			w.sampled = append(w.sampled, nil)
		}
		last := len(w.sampled) - 1
		w.sampled[last] = append(w.sampled[last], s.Tokens)
		w.tokens["MMD"] += len(s.Tokens)
	}
	w.finished = p.finishes(t, e, 100*seed)
	w.tokens["agreement"] = finishLength * len(w.finished)
	return w
}

func short(w verifytest.Written, n int) verifytest.Written {
	w.Tokens = w.Tokens[:min(n, len(w.Tokens))]
	return w
}

// accepts says which peers accept a candidate that answered w, asked on the
// prompts and questions of the indices; kl is the mean KL of the same prompts.
func (p *peers) accepts(w written, prompts, asked, sampled []int, kl float64, r *rand.Rand) map[string]bool {
	var a, b written
	for _, i := range asked {
		a.right, b.right = append(a.right, p.reference.right[i]), append(b.right, w.right[i])
	}
	everyClose := true
	for _, i := range prompts {
		a.greedy, b.greedy = append(a.greedy, p.reference.greedy[i]), append(b.greedy, w.greedy[i])
		a.finished, b.finished = append(a.finished, p.reference.finished[i]), append(b.finished, w.finished[i])
		everyClose = everyClose && verifytest.LogProbsClose(short(p.reference.greedy[i], closeLength), short(w.greedy[i], closeLength))
	}
	for _, i := range sampled {
		a.sampled, b.sampled = append(a.sampled, p.reference.sampled[i]), append(b.sampled, w.sampled[i])
	}
	return map[string]bool{
		"benchmark":      verifytest.Benchmark(a.right, b.right, 0.05),
		"greedy":         verifytest.SameGreedy(a.greedy, b.greedy),
		"logprobs close": everyClose,
		"KL 5e-3":        kl <= klLimit,
		"MMD":            verifytest.EqualModels(a.sampled, b.sampled, sampleLength, 499, r) > 0.01,
		"agreement":      verifytest.F1(a.finished, b.finished) >= 0.96*p.repeat,
	}
}

func upTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// TestSoakPeers plants every fault for ours and asks the peers about the same
// deployments in the same run, then asks them about honest ones.
func TestSoakPeers(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("set TARBERT_SOAK=1 to ask the peers about every fault")
	}
	c, err := verifytest.ReadCorpus()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range specimens() {
		t.Run(s.Name, func(t *testing.T) {
			b := specimenBench(t, s, int(s.Seed)*64, 64)
			r := rand.New(rand.NewPCG(s.Seed, 6))
			p := newPeers(t, b, c.HeldOut[2500:2500+questions])
			honestPeers(t, b, p, r)
			table, cost := newTable(), map[string]int{}
			for _, f := range verifytest.Catalogue(b.config) {
				if ok, err := regexp.MatchString(os.Getenv("TARBERT_FAULT"), f.Name); !ok || err != nil {
					continue
				}
				if f.Unseen != "" || f.Text != nil {
					continue // not to be seen, or nothing that token-id prompts show
				}
				got := b.try(t, f)
				candidate, _, _ := b.plant(t, f) // what is asked one request at a time
				w := p.ask(t, candidate, 2)
				kl, tokens := b.meanKL(t, candidate)
				table.add(f, got.verdict == gate.Fail, p.accepts(w, upTo(64), upTo(questions), upTo(sampledPrompts), kl, r))
				cost["ours"] += got.tokens
				cost["KL 5e-3"] += tokens
				for name, n := range w.tokens {
					cost[name] += n
				}
			}
			table.log(t, cost)
		})
	}
}

// honestPeers counts how often the peers refuse honest chips: prompts,
// questions and prompts of samples drawn with replacement from those asked.
func honestPeers(t *testing.T, b *bench, p *peers, r *rand.Rand) {
	const chips, draws = 4, 100
	refused := map[string]int{}
	for chip := range uint64(chips) {
		own := *b
		own.chip = 900 + chip
		e := own.candidate(t, own.dir, nil, nil)
		w := p.ask(t, e, 3+chip)
		kl, _ := own.meanKL(t, e)
		for range draws {
			draw := func(n, of int) []int {
				out := make([]int, n)
				for i := range out {
					out[i] = r.IntN(of)
				}
				return out
			}
			for name, ok := range p.accepts(w, draw(64, len(p.heads)), draw(questions, len(p.cloze)), draw(sampledPrompts, sampledPrompts), kl, r) {
				if !ok {
					refused[name]++
				}
			}
		}
	}
	for _, name := range peerNames {
		low, high := verifytest.ClopperPearson(refused[name], chips*draws, 0.05)
		t.Logf("| %s | refuses %d of %d honest runs on %d chips (%.1f %%, 95 %% %.1f to %.1f) |", name, refused[name], chips*draws, chips,
			100*float64(refused[name])/float64(chips*draws), 100*low, 100*high)
	}
}

// table counts what was found, per peer.
type table struct {
	rows  []string
	count map[string]int
	n     int
}

func newTable() *table { return &table{count: map[string]int{}} }

func (x *table) add(f verifytest.Fault, ours bool, accepted map[string]bool) {
	line := fmt.Sprintf("| %d | %s | %s", f.Number, f.Name, mark(ours))
	x.n++
	if ours {
		x.count["ours"]++
	}
	for _, name := range peerNames {
		line += " | " + mark(!accepted[name])
		if !accepted[name] {
			x.count[name]++
		}
	}
	x.rows = append(x.rows, line+" |")
}

func mark(found bool) string {
	if found {
		return "✓"
	}
	return "–"
}

func (x *table) log(t *testing.T, cost map[string]int) {
	t.Logf("| no. | fault | ours | %s |", strings.Join(peerNames, " | "))
	for _, r := range x.rows {
		t.Log(r)
	}
	for _, name := range append([]string{"ours"}, peerNames...) {
		t.Logf("| %s | finds %d of %d (%.0f %%) | %d tokens of the candidate a fault |", name, x.count[name], x.n, 100*float64(x.count[name])/float64(x.n), cost[name]/x.n)
	}
}
