package trainer

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tarbert/internal/checkpoint"
	"tarbert/internal/reward"
	"tarbert/internal/spec"
)

var update = flag.Bool("update", false, "rewrite ../../../harness/testdata/vectors.json")

const vectorsFile = "../../../harness/testdata/vectors.json"

// vectors is what the PyTorch trainer must do as this one does: draws, order,
// schedule, rewards, advantages and the digest of a step's data.
type vectors struct {
	Draws        []drawVector        `json:"draws"`
	Permutations []permutationVector `json:"permutations"`
	Orders       []orderVector       `json:"orders"`
	Rates        []rateVector        `json:"rates"`
	Answers      []answerVector      `json:"answers"`
	Advantages   []advantageVector   `json:"advantages"`
	Digests      []digestVector      `json:"digests"`
}

type (
	drawVector struct {
		Key     []uint64 `json:"key"`
		Draw    string   `json:"draw"` // decimal: not every JSON reader keeps 64 bits
		Uniform float64  `json:"uniform"`
	}
	permutationVector struct {
		Seed  uint64 `json:"seed"`
		Epoch uint64 `json:"epoch"`
		N     int    `json:"n"`
		Is    []int  `json:"is"`
	}
	orderVector struct {
		Seed  uint64  `json:"seed"`
		N     int     `json:"n"`
		Batch int     `json:"batch"`
		Steps [][]int `json:"steps"`
	}
	rateVector struct {
		Optimizer spec.Optimizer `json:"optimizer"`
		Total     int            `json:"total"`
		Rates     []float64      `json:"rates"`
	}
	answerVector struct {
		Completion string `json:"completion"`
		Answer     string `json:"answer"`
		Correct    bool   `json:"correct"`
		Thinks     bool   `json:"thinks"`
	}
	advantageVector struct {
		Rewards []float64 `json:"rewards"`
		Is      []float64 `json:"is"` // null: nothing to learn
	}
	digestVector struct {
		Sequences [][]int `json:"sequences"`
		Is        string  `json:"is"`
	}
)

func makeVectors(t *testing.T) vectors {
	var v vectors
	for _, key := range [][]uint64{{}, {0}, {1, streamShuffle, 3, 9}, {1<<64 - 1, streamSample, 12, 5, 7, 40}} {
		v.Draws = append(v.Draws, drawVector{append([]uint64{}, key...), fmt.Sprint(draw(key...)), uniform(key...)})
	}
	for _, n := range []int{1, 2, 17} {
		v.Permutations = append(v.Permutations, permutationVector{7, 2, n, permutation(7, 2, n)})
	}
	o := order{seed: 5, n: 7, batch: 3}
	v.Orders = []orderVector{{Seed: 5, N: 7, Batch: 3}}
	for s := range 6 {
		v.Orders[0].Steps = append(v.Orders[0].Steps, o.step(s))
	}
	for _, opt := range []spec.Optimizer{{LearningRate: 3e-3, Warmup: 3, Floor: 0.2}, {LearningRate: 1e-4, Floor: 1}, {LearningRate: 1, Warmup: 8, Floor: 0}} {
		r := rateVector{Optimizer: opt, Total: 8}
		for s := range 8 {
			r.Rates = append(r.Rates, rate(opt, s, 8))
		}
		v.Rates = append(v.Rates, r)
	}
	check, err := reward.NewChecker("answer")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{"357", "357"}, {" 357\n", "357"}, {"358", "357"}, {"<think>2+5+0=7;</think>357", "357"}, {"<think>357</think>", "357"},
		{"<think></think>357", "357"}, {"<think> \n</think>357", "357"}, {"<think>2+5+0=7;357", "357"}, {"2+5+0=7;</think>357", "357"},
		{"so <think>x</think>357", "357"}, {"<think>a</think>1</think>357", "357"}, {"<think></think>1</think>357", "357"},
		{"\n<think>a</think> 357", "357"}, {"0357", "357"}, {"", ""}, {"\u00a0357\u3000", " 357"}, {"\x1c357", "357"}, {"357\x1f", "357"}, {"<think>\x1c</think>7", "7"},
	} {
		r := check(c[0], c[1])
		v.Answers = append(v.Answers, answerVector{c[0], c[1], r.Correct, r.Thinks})
	}
	for _, rewards := range [][]float64{{1, 0, 0, 1}, {1, 1}, {0, 0, 0}, {1, 0, 0, 0, 0, 0, 0, 0}} {
		a, _ := advantages(rewards)
		v.Advantages = append(v.Advantages, advantageVector{rewards, a})
	}
	for _, s := range [][][]int{{}, {{1, 2, 3}, {70000}}, {{0}, {}, {1 << 30}}} {
		v.Digests = append(v.Digests, digestVector{s, digest(s)})
	}
	return v
}

// The vectors are those of this trainer.
func TestVectorsAreOurs(t *testing.T) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(makeVectors(t)); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(vectorsFile, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%s differs from what this trainer does: -update rewrites it, and the PyTorch trainer must follow", vectorsFile)
	}
}

// The PyTorch trainer's parts that need no PyTorch hold to them. That it trains
// the same is for make interop.
func TestPythonHoldsToTheVectors(t *testing.T) {
	python, err := exec.LookPath("python3")
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("no python3 here")
	} else if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("../../../harness/testdata/vectors.py")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-B", script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// A checkpoint that says which run it is of is held to it, whoever wrote it.
func TestAnotherTrainersCheckpointIsHeldToItsRun(t *testing.T) {
	f := newFixture(t)
	if err := f.run("a", "", 4); err == nil || !errors.Is(err, ErrStopped) {
		t.Fatalf("run: %v", err)
	}
	written := func(seed uint64) string {
		state, err := checkpoint.ReadState(f.step("a", 4))
		if err != nil {
			t.Fatal(err)
		}
		var own extra
		if err := json.Unmarshal(state.Extra, &own); err != nil {
			t.Fatal(err)
		}
		own.Run.Seed = seed
		if state.Extra, err = json.Marshal(own); err != nil {
			t.Fatal(err)
		}
		state.Writer = checkpoint.Identity{Trainer: "torchrun", Vendor: "nvidia"}
		root := filepath.Join(f.dir, fmt.Sprintf("theirs-%d", seed))
		w, err := checkpoint.Begin(root, 4)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range files(t, f.step("a", 4)) {
			if name == "state.json" || name == "manifest.json" {
				continue
			}
			if err := os.WriteFile(filepath.Join(w.Dir(), name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		dir, err := w.Commit(state)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	if err := f.run("b", written(7), 5); !errors.Is(err, ErrStopped) {
		t.Errorf("the same run: %v", err)
	}
	if err := f.run("c", written(8), 5); err == nil || errors.Is(err, ErrStopped) {
		t.Errorf("another seed: %v; want a refusal", err)
	}
}
