package spec

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files")

// baseText is a release file that says only what it must.
func baseText(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("testdata/base/release.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// baseDir is a fresh folder with what that file refers to, and the working directory.
func baseDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/base")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	return dir
}

func TestDefaults(t *testing.T) {
	dir := baseDir(t)
	got, err := Load(".")
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	want := &Release{
		Name: "base", Seed: 1, Dir: dir, File: filepath.Join(dir, "release.yaml"),
		Pools: []Pool{{Name: "here", Vendor: "cpu", Executor: "local", Roles: []Role{Fallback, Target}}},
		Label: Label{
			Annotations: filepath.Join(data, "annotations.jsonl"), Accept: "good",
			Agreement: Agreement{Alpha: 0.667, Confidence: 0.95, Resamples: 1000},
		},
		Plan:    Plan{Deadline: Duration(10 * time.Minute)},
		Qualify: Qualify{TwinSteps: 30, GradientTolerance: 0.01},
		Train: Train{
			Trainer: "reference", Model: filepath.Join(dir, "model"), DType: "float32",
			Checkpoint: Checkpoint{Every: 50, Keep: 3}, Restarts: 3,
			Supervise: Supervise{HangFloor: Duration(10 * time.Second), FirstLimit: Duration(30 * time.Minute), UnitLimit: Duration(5 * time.Minute)},
			Fallback:  Budgets{CleanSteps: 1000, Window: Duration(72 * time.Hour)},
			SFT: SFT{Steps: 100, Batch: 8, Optimizer: Optimizer{
				LearningRate: 1e-3, Warmup: 10, Floor: 1, Betas: [2]float64{0.9, 0.95}, Epsilon: 1e-8, Clip: 1}},
			GRPO: GRPO{
				Steps: 10, Problems: filepath.Join(data, "problems.jsonl"), Reward: "answer", Prompts: 4, Samples: 4,
				MaxTokens: 32, Temperature: 1, ClipLow: 0.2, ClipHigh: 0.28, Objective: "grpo",
				Optimizer: Optimizer{LearningRate: 1e-4, Floor: 1, Betas: [2]float64{0.9, 0.99}, Epsilon: 1e-8, Clip: 1},
			},
			Torchrun: Torchrun{Python: "python3", NProc: 1, Device: "auto", Parallel: "ddp", Precision: "float32", MicroTokens: 4096},
		},
		Convert: Convert{Formats: []string{"bf16", "w8a8-ascend"}},
		Verify: Verify{
			Format: "w8a8-ascend", Prompts: filepath.Join(data, "problems.jsonl"), Count: 64, Top: 20, Alpha: 0.01, Beta: 0.01,
			Margin: Margin{Ratio: 20, DeltaNLL: 0.01, Top1: 0.98, Clip: 0.1},
		},
		Compare: Compare{Problems: filepath.Join(data, "problems.jsonl"), Reward: "answer", NonInferiority: 0.05, MaxTokens: 32},
		Serve:   Serve{Addr: "127.0.0.1:8000", Smoke: "1+1=", Name: "base"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What is written wins over the default, zero included.
func TestWrittenZeroIsNotADefault(t *testing.T) {
	base := baseText(t)
	baseDir(t)
	text := strings.Replace(base, "name: base", "name: base\nseed: 0", 1)
	text = strings.Replace(text, "warmup: 10", "warmup: 0\n      clip: 0\n      floor: 0", 1)
	if err := os.WriteFile("release.yaml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Load("release.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if o := s.Train.SFT.Optimizer; s.Seed != 0 || o.Clip != 0 || o.Floor != 0 || o.Warmup != 0 {
		t.Errorf("seed %d, optimizer %+v", s.Seed, o)
	}
}

// Anchors and aliases may save writing.
func TestAliases(t *testing.T) {
	base := baseText(t)
	baseDir(t)
	text := strings.Replace(base, "    optimizer:\n      learning_rate: 1e-3", "    optimizer: &adam\n      learning_rate: 1e-3", 1)
	text = strings.Replace(text, "    optimizer:\n      learning_rate: 1e-4", "    optimizer: *adam", 1)
	if err := os.WriteFile("release.yaml", []byte("\uFEFF"+strings.ReplaceAll(text, "\n", "\r\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Load("release.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Train.GRPO.Optimizer.LearningRate; got != 1e-3 {
		t.Errorf("learning rate through the alias is %v, want 1e-3", got)
	}
}

// Every mistake is an edit of the file that is right; what Load says to each is
// in testdata/mistakes.golden, to be read as a person would.
func TestMistakes(t *testing.T) {
	base := baseText(t)
	golden, err := filepath.Abs("testdata/mistakes.golden")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, c := range []struct{ name, old, new string }{
		{"unknown section", "label:", "lable:"},
		{"unknown field", "    batch: 8", "    batchsize: 8"},
		{"field of another section", "  deadline: 10m", "  deadline: 10m\n  batch: 8"},
		{"unknown field in a list", "    vendor: cpu", "    vender: cpu"},
		{"nothing like it", "serve:\n", "serve:\n  colour: blue\n"},
		{"field twice", "    steps: 100", "    steps: 100\n    steps: 200"},
		{"text for a number", "    batch: 8", "    batch: eight"},
		{"quoted number", "    batch: 8", `    batch: "8"`},
		{"fraction for a whole number", "    samples: 4", "    samples: 4.5"},
		{"negative seed", "name: base", "name: base\nseed: -3"},
		{"number for text", "name: base", "name: 7"},
		{"number for a duration", "deadline: 10m", "deadline: 600"},
		{"not a duration", "deadline: 10m", "deadline: ten minutes"},
		{"value for a section", "label:\n  annotations: data/annotations.jsonl", "label: data/annotations.jsonl"},
		{"list for a section", "serve:\n  smoke", "serve:\n  - smoke"},
		{"value for a list", "formats: [bf16, w8a8-ascend]", "formats: bf16"},
		{"three betas", "      warmup: 10", "      betas: [0.9, 0.95, 0.99]"},
		{"no value", "  deadline: 10m", "  deadline:"},
		{"infinity", "learning_rate: 1e-3", "learning_rate: .inf"},
		{"missing fields", "    steps: 100\n    batch: 8\n", ""},
		{"missing section", "plan:\n  deadline: 10m\n", ""},
		{"missing in a list", "    vendor: cpu\n", ""},
		{"missing for reinforcement learning", "    problems: data/problems.jsonl\n    prompts: 4\n", ""},
		{"out of range", "    samples: 4", "    samples: 1"},
		{"must be more than zero", "learning_rate: 1e-3", "learning_rate: 0"},
		{"empty list", "formats: [bf16, w8a8-ascend]", "formats: []"},
		{"unknown device of the torchrun trainer", "  model: model\n", "  model: model\n  trainer: torchrun\n  torchrun: {device: cude}\n"},
		{"unknown trainer", "  model: model\n", "  model: model\n  trainer: torchrum\n"},
		{"torchrun ranks", "  model: model\n", "  model: model\n  torchrun: {nproc: 0, rank: 2}\n"},
		{"trainer command without a command", "  model: model\n", "  model: model\n  trainer: command\n"},
		{"command of another trainer", "  model: model\n", "  model: model\n  command: [python3, train.py]\n"},
		{"command's file is not there", "  model: model\n", "  model: model\n  trainer: command\n  command: [python3, ./train.py, --fast]\n"},
		{"command's file is a folder", "  model: model\n", "  model: model\n  trainer: command\n  command: [python3, ./data]\n"},
		{"command by a bare path", "  model: model\n", "  model: model\n  trainer: command\n  command: [scripts/train.sh]\n"},
		{"empty element of a command", "  model: model\n", "  model: model\n  trainer: command\n  command: [python3, \"\"]\n"},
		{"pool's command without its trainer", "    roles: [fallback, target]", "    roles: [fallback, target]\n    command: [sh, ./data/problems.jsonl]"},
		{"pool's trainer without a command", "    roles: [fallback, target]", "    roles: [fallback, target]\n    trainer: command"},
		{"pool's file is not there", "    roles: [fallback, target]", "    roles: [fallback, target]\n    trainer: command\n    command: [sh, ./train.sh]"},
		{"trainer of a pool that does not train", "pools:\n", "pools:\n  - {name: there, vendor: cpu, roles: [target], trainer: torchrun}\n"},
		{"command of the judge without its trainer", "pools:\n", "pools:\n  - {name: there, vendor: cpu, roles: [reference], command: [sh]}\n"},
		{"unknown format", "w8a8-ascend]", "w8a8-ascned]"},
		{"unknown vendor", "vendor: cpu", "vendor: tpu9"},
		{"unknown role", "roles: [fallback, target]", "roles: [fallback, targets]"},
		{"no pool serves", "roles: [fallback, target]", "roles: [fallback, reference]"},
		{"no pool trains", "roles: [fallback, target]", "roles: [reference, target]"},
		{"role twice", "roles: [fallback, target]", "roles: [fallback, target, fallback]"},
		{"pool twice", "pools:\n", "pools:\n  - {name: here, vendor: nvidia, roles: [preferred]}\n"},
		{"format not converted", "verify:\n", "verify:\n  format: w8a8-ascend\nconvert:\n  formats: [bf16]\nnothing:\n"},
		{"verified format not converted", "  formats: [bf16, w8a8-ascend]\nverify:\n", "  formats: [bf16]\nverify:\n  format: w8a8-ascend\n"},
		{"file is not there", "data/annotations.jsonl", "data/annotation.jsonl"},
		{"folder for a file", "  annotations: data/annotations.jsonl", "  annotations: data"},
		{"model folder without a model", "  model: model", "  model: data"},
		{"warm-up longer than training", "      warmup: 10", "      warmup: 1000"},
		{"bad address", "serve:\n", "serve:\n  addr: localhost\n"},
		{"bad name", "name: base", "name: My Release"},
		{"empty prompt", `smoke: "1+1="`, `smoke: ""`},
		{"tab", "  annotations:", "\tannotations:"},
		{"unclosed bracket", "formats: [bf16, w8a8-ascend]", "formats: [bf16, w8a8-ascend"},
		{"unclosed quote", `smoke: "1+1="`, `smoke: "1+1=`},
		{"unknown alias", "    optimizer:\n      learning_rate: 1e-4", "    optimizer: *adam"},
		{"merge key", "    optimizer:\n      learning_rate: 1e-4", "    optimizer:\n      <<: {learning_rate: 1e-4}"},
		{"tag", "name: base", "name: !!str base"},
		{"two documents", "serve:\n", "---\nserve:\n"},
		{"control characters", "name: base", "name: \"b\\e[31mase\""},
		{"several", "    batch: 8\n    optimizer:\n      learning_rate: 1e-3", "    batch: 0\n    optimizer:\n      learning_rate: 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := baseDir(t)
			text := strings.Replace(base, c.old, c.new, 1)
			if text == base {
				t.Fatalf("the edit of %q changed nothing", c.old)
			}
			if err := os.WriteFile("release.yaml", []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := Load("release.yaml")
			var mistakes *Error
			if !errors.As(err, &mistakes) {
				t.Fatalf("error %v, want an *Error", err)
			}
			for _, m := range mistakes.Mistakes {
				if m.Line < 1 || m.Line > strings.Count(text, "\n")+1 || m.What == "" {
					t.Errorf("mistake %+v has no place in the file", m)
				}
			}
			fmt.Fprintf(&all, "=== %s\n%s\n\n", c.name, strings.ReplaceAll(err.Error(), dir, "DIR"))
		})
	}
	if *update {
		if err := os.WriteFile(golden, []byte(all.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), all.String()); diff != "" {
		t.Errorf("run go test -update and read what changed (-want +got):\n%s", diff)
	}
}

func TestWhatIsNoReleaseFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// A million laughs: nine levels of ten aliases each.
	var bomb strings.Builder
	bomb.WriteString("name: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 9; i++ {
		fmt.Fprintf(&bomb, "n%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	fmt.Fprintf(&bomb, "convert: {formats: *a8}\n")
	var pools strings.Builder
	pools.WriteString("convert:\n  keep: &k [" + strings.TrimSuffix(strings.Repeat("a, ", 500), ", ") + "]\npools:\n")
	for range 1000 {
		pools.WriteString("  - roles: *k\n")
	}
	for _, c := range []struct{ name, path, want string }{
		{"no file", filepath.Join(dir, "none.yaml"), "no release file at"},
		{"folder without one", dir, "no release file at"},
		{"empty", write("empty.yaml", ""), "is empty"},
		{"only a comment", write("comment.yaml", "# nothing\n"), "is empty"},
		{"a list", write("list.yaml", "- a\n"), "must hold fields"},
		{"binary", write("binary.yaml", "\x00\xff\xfe"), "not UTF-8"},
		{"huge", write("huge.yaml", strings.Repeat("# x\n", 100_000)), "longer than"},
		{"deep brackets", write("deep.yaml", strings.Repeat("[", 100_000)), "nested more than"},
		{"deep dashes", write("dashes.yaml", strings.Repeat("- ", 50_000)), "nested more than"},
		{"deep keys", write("keys.yaml", strings.Repeat("? ", 50_000)), "nested more than"},
		{"laughs in unknown fields", write("bomb.yaml", bomb.String()), "unknown field"},
		{"laughs in known fields", write("pools.yaml", pools.String()), "too large or too deep"},
		{"alias of itself", write("self.yaml", "pools: &p\n  - roles: *p\n"), "must be text, not a group"},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			_, err := Load(c.path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %.300v; want %q", err, c.want)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			if err != nil && len(err.Error()) > 10_000 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestNearest(t *testing.T) {
	names := []string{"annotations", "accept", "agreement"}
	for word, want := range map[string]string{
		"anotations": "annotations", "acept": "accept", "agreemnet": "agreement", "ACCEPT": "accept", "annotation": "annotations", "accept_label": "accept", "cpt": "", "colour": "", "x": "",
	} {
		if got, _ := nearest(word, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

// Load's decoder never panics, never runs away, and never lets through what it
// would not write back the same.
func FuzzLoad(f *testing.F) {
	f.Add(baseText(f))
	for _, s := range []string{
		"name: [", "name: &a {b: *a}", "? a\n: b", "a: |\n  x\n", "pools: [{}]", "- - - -", "name: !!binary x", "\t", "%YAML 1.2\n---\n", "name: 1e999",
		"train: {sft: {optimizer: {betas: [.nan, 0x1F]}}}", "seed: 18446744073709551615", "'\\", "\"\\uD800\"", "{a: b, ? }",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > maxFile {
			return
		}
		s, d, err := decode("release.yaml", text)
		if err != nil {
			var mistakes *Error
			if !errors.As(err, &mistakes) || len(mistakes.Mistakes) == 0 || err.Error() == "" {
				t.Fatalf("error %v says nothing", err)
			}
			return
		}
		s.Dir = "/nowhere"
		s.derive()
		d.validate(s, s.resolvePaths())
		_ = d.err("release.yaml")
	})
}
