package train

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarbert/internal/checkpoint"
	"tarbert/internal/executor/local"
	"tarbert/internal/spec"
	"tarbert/internal/tensor"
)

// The test binary is also the shim, the trainer and the supervisor that gets killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "shim":
			os.Exit(local.Shim(os.Args[2]))
		case "trainer":
			os.Exit(runTrainer(os.Args[2], os.Args[3]))
		case "group":
			os.Exit(runGroup(os.Args[2]))
		case "rank":
			os.Exit(runRank(os.Args[2], os.Args[3]))
		case "group-supervisor": // group-supervisor DIR KILL-AT
			os.Exit(runGroupSupervisor(os.Args[2], os.Args[3]))
		case "supervisor": // supervisor DIR SCRIPT KILL-AT
			os.Exit(runSupervisor(os.Args[2], os.Args[3], os.Args[4]))
		}
	}
	os.Exit(m.Run())
}

func self(args ...string) []string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return append([]string{exe}, args...)
}

// input is a run of ten steps in dir whose trainer follows a script. dir also
// holds the tasks and the trainer's notes.
func input(dir, script string) Input {
	var r spec.Recipe
	r.Train.SFT.Steps, r.Train.GRPO.Steps = 6, 4
	r.Train.Checkpoint.Every = 2
	r.Train.Restarts = 3
	ex := local.New(filepath.Join(dir, "tasks"), self("shim"), time.Now)
	ex.Interval = 5 * time.Millisecond
	return Input{
		Release: "r-1", Recipe: r, Dir: filepath.Join(dir, "stage"),
		Pool: Pool{Name: "a", Argv: self("trainer", script, dir), Executor: ex},
		Now:  time.Now, Poll: 5 * time.Millisecond, Limits: Limits{Floor: time.Minute},
	}
}

// runSupervisor is Run in a process that dies by SIGKILL right after its n-th write of state.
func runSupervisor(dir, script, killAt string) int {
	n, err := strconv.Atoi(killAt)
	if err != nil {
		return 2
	}
	in := input(dir, script)
	in.written = dieAt(n)
	if _, err := Run(context.Background(), in); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// dieAt kills this process at the n-th call.
func dieAt(n int) func(Phase) {
	return func(Phase) {
		if n--; n == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

// trainer is a deterministic toy: weights that depend on every step taken, and
// a script of misfortunes. A misfortune "once" leaves a note and does not come again.
type trainer struct {
	notes   string
	events  *os.File
	root    string
	recipe  spec.Recipe
	weights []float32
	step    int
}

func runTrainer(script, notes string) int {
	t := &trainer{notes: notes, root: os.Getenv("TARBERT_CHECKPOINTS"), weights: []float32{1, 2, 3, 4}}
	if err := t.setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "trainer:", err)
		return 90
	}
	fmt.Println("trainer is up")
	do, at, _ := strings.Cut(script, "@")
	when, _ := strconv.Atoi(at)
	for t.step < t.recipe.Steps() {
		if code, over := t.misfortune(do, when); over {
			return code
		}
		t.section("step")
		t.next(do == "nan" && t.step+1 == when)
		if t.step%t.recipe.Train.Checkpoint.Every == 0 || t.step == t.recipe.Steps() {
			t.section("checkpoint")
			if err := t.save(); err != nil {
				fmt.Fprintln(os.Stderr, "trainer:", err)
				return 91
			}
		}
	}
	if do == "torn-final" && t.once(do) {
		t.tear(t.step)
	}
	t.say(`{"event":"done","step":%d}`, t.step)
	if do == "lingers" {
		select {}
	}
	if do == "bad-exit" {
		return 5
	}
	return 0
}

// setUp reads the contract's environment, and refuses to be a second writer.
func (t *trainer) setUp() error {
	if err := os.MkdirAll(t.root, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(t.notes, "writer"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(err, os.WriteFile(filepath.Join(t.notes, "two-writers"), nil, 0o644))
	}
	b, err := os.ReadFile(os.Getenv("TARBERT_RECIPE"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &t.recipe); err != nil {
		return err
	}
	if t.events, err = os.OpenFile(os.Getenv("TARBERT_EVENTS"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return err
	}
	runs, err := os.OpenFile(filepath.Join(t.notes, "runs"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	resume := os.Getenv("TARBERT_RESUME")
	if _, err := fmt.Fprintf(runs, "%d %s\n", os.Getpid(), filepath.Base(resume)); err != nil {
		return err
	}
	t.section("setup")
	if resume == "" {
		return nil
	}
	state, err := checkpoint.ReadState(resume)
	if err != nil {
		return err
	}
	t.step = state.Step
	d, err := tensor.OpenDir(resume)
	if err != nil {
		return err
	}
	t.weights, err = d.Float32("w")
	return errors.Join(err, d.Close())
}

func (t *trainer) say(format string, args ...any) {
	fmt.Fprintf(t.events, format+"\n", args...)
}

func (t *trainer) section(name string) { t.say(`{"event":"section","name":%q}`, name) }

func (t *trainer) next(nan bool) {
	<-time.After(8 * time.Millisecond) // a step takes time
	t.step++
	for i := range t.weights {
		t.weights[i] = t.weights[i]*1.01 + float32(t.step)*float32(i+1)/7
	}
	loss := strconv.FormatFloat(10/float64(t.step), 'g', -1, 64)
	if nan {
		loss = "NaN"
	}
	t.say(`{"event":"step","step":%d,"loss":%s,"grad_norm":1,"tokens":64}`, t.step, loss)
	if t.step > t.recipe.Train.SFT.Steps {
		t.say(`{"event":"mismatch","step":%d,"mean_abs_dlogp":0.25}`, t.step)
	}
}

func (t *trainer) save() error {
	w, err := checkpoint.Begin(t.root, t.step)
	if err != nil {
		return err
	}
	x := tensor.FromFloat32("w", []int64{4}, t.weights, tensor.F32)
	if err := tensor.WriteFile(filepath.Join(w.Dir(), "model.safetensors"), []tensor.Tensor{x}, nil); err != nil {
		return err
	}
	stage := "sft"
	if t.step > t.recipe.Train.SFT.Steps {
		stage = "grpo"
	}
	dir, err := w.Commit(checkpoint.State{Step: t.step, Tokens: int64(64 * t.step), Stage: stage})
	if err != nil {
		return err
	}
	t.say(`{"event":"checkpoint","step":%d,"dir":%q}`, t.step, dir)
	return nil
}

// once is true the first time that it is asked for.
func (t *trainer) once(what string) bool {
	f, err := os.OpenFile(filepath.Join(t.notes, "did-"+what), os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// tear cuts the newest checkpoint's weights short, as a lost write would.
func (t *trainer) tear(step int) {
	if err := os.Truncate(filepath.Join(t.root, fmt.Sprintf("step-%08d", step), "model.safetensors"), 20); err != nil {
		panic(err)
	}
}

// misfortune happens before the step after `when`.
func (t *trainer) misfortune(do string, when int) (exit int, over bool) {
	if t.step != when {
		return 0, false
	}
	switch do {
	case "crash-always":
		fmt.Println("it happened again")
		return 7, true
	case "no-restart":
		return exitDoNotRestart, true
	case "crash":
		return 7, t.once(do)
	case "exit0":
		return 0, t.once(do)
	case "kill":
		if t.once(do) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	case "half-line":
		if t.once(do) {
			fmt.Fprint(t.events, "not json\n"+`{"event":"step","st`)
			return 7, true
		}
	case "torn":
		if t.once(do) {
			t.tear(t.step)
			return 7, true
		}
	case "poisoned": // a checkpoint that verifies, but is not finite
		if t.once(do) {
			t.weights[1] = float32(nan())
			if err := t.save(); err != nil {
				panic(err)
			}
			return 7, true
		}
	case "stopped": // no progress until somebody ends it
		if t.once(do) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		}
	case "waits":
		for {
			if _, err := os.Stat(filepath.Join(t.notes, "go")); err == nil {
				break
			}
			<-time.After(2 * time.Millisecond)
		}
	}
	return 0, false
}

func nan() float64 {
	var zero float64
	return zero / zero
}

// wantWeights is what an undisturbed run of n steps ends with, computed here.
func wantWeights(n int) []byte {
	t := &trainer{weights: []float32{1, 2, 3, 4}}
	for step := 1; step <= n; step++ {
		for i := range t.weights {
			t.weights[i] = t.weights[i]*1.01 + float32(step)*float32(i+1)/7
		}
	}
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, t.weights); err != nil {
		panic(err)
	}
	return b.Bytes()
}
