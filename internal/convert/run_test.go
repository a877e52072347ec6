package convert_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/checkpoint"
	"tarbert/internal/convert"
	"tarbert/internal/convert/converttest"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/spec"
	"tarbert/internal/tensor"
)

// portable makes a checkpoint of the golden model.
func portable(t *testing.T, step int, change func(all map[string]tensor.Tensor)) string {
	t.Helper()
	w, err := checkpoint.Begin(t.TempDir(), step)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.json", "model.safetensors"} {
		put(t, filepath.Join(w.Dir(), name), string(read(t, filepath.Join(deepseek, name))))
	}
	if change != nil {
		reweigh(t, w.Dir(), "model.safetensors", change)
	}
	put(t, filepath.Join(w.Dir(), "tokenizer.json"), "{}")
	if err := tensor.WriteFile(filepath.Join(w.Dir(), "optimizer.safetensors"), nil, nil); err != nil {
		t.Fatal(err)
	}
	dir, err := w.Commit(checkpoint.State{Step: step, Stage: "grpo"})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// both are the formats of a release that serves on Ascend beside the reference.
func both() spec.Convert { return spec.Convert{Formats: []string{convert.BF16, convert.W8A8Ascend}} }

func mustRun(t *testing.T, in convert.Input) *convert.RunReport {
	t.Helper()
	rep, err := convert.Run(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestRunConvertsChecksAndReuses(t *testing.T) {
	src, out := portable(t, 120, nil), t.TempDir()
	var updates []progress.Update
	in := convert.Input{Checkpoint: src, Spec: both(), OutDir: out, Workers: 1, Progress: func(u progress.Update) { updates = append(updates, u) }}
	rep := mustRun(t, in)
	if !rep.Gate.Passed() || len(rep.Gate.Checks) != 3 || len(rep.Outputs) != 2 || len(updates) == 0 {
		t.Fatalf("gate %+v, %d outputs, %d updates", rep.Gate, len(rep.Outputs), len(updates))
	}
	last := updates[len(updates)-1]
	if last.Stage != "convert" {
		t.Errorf("last update %+v", last)
	}
	for _, o := range rep.Outputs {
		if o.Reused || o.Dir != filepath.Join(out, o.Format) || o.Bytes == 0 || o.Bytes >= rep.SourceBytes || !o.Check.Recorded || o.WorstSQNR < 30 {
			t.Errorf("%+v", o)
		}
		if _, err := os.Stat(filepath.Join(o.Dir, "tokenizer.json")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(o.Dir, "optimizer.safetensors")); err == nil {
			t.Error("the optimizer's state was taken along")
		}
	}
	if b, err := json.Marshal(rep); err != nil || strings.Contains(string(b), "Inf") {
		t.Errorf("the report is no JSON: %v", err)
	}
	again := mustRun(t, in)
	for i, o := range again.Outputs {
		if !o.Reused {
			t.Errorf("%s was converted again", o.Format)
		}
		again.Outputs[i].Reused = false
	}
	if diff := cmp.Diff(rep, again); diff != "" {
		t.Errorf("the second report differs: %s", diff)
	}
}

func TestRunReplacesWhatIsOutOfDate(t *testing.T) {
	out := t.TempDir()
	first := mustRun(t, convert.Input{Checkpoint: portable(t, 1, nil), Spec: both(), OutDir: out})
	other := portable(t, 2, func(all map[string]tensor.Tensor) { setFloat(all["model.norm.weight"], 0, 3) })
	second := mustRun(t, convert.Input{Checkpoint: other, Spec: both(), OutDir: out})
	if !second.Gate.Passed() || second.Outputs[0].Reused || second.Outputs[0].Digest == first.Outputs[0].Digest {
		t.Errorf("another checkpoint: %+v", second.Outputs)
	}
	kept := mustRun(t, convert.Input{Checkpoint: other, Spec: spec.Convert{Formats: both().Formats, Keep: []string{"*.o_proj"}}, OutDir: out})
	if !kept.Outputs[0].Reused || kept.Outputs[1].Reused || kept.Outputs[1].Quantised >= second.Outputs[1].Quantised {
		t.Errorf("another --keep: %+v", kept.Outputs)
	}
	put(t, filepath.Join(out, convert.BF16, "model.safetensors"), "damaged")
	repaired := mustRun(t, convert.Input{Checkpoint: other, Spec: both(), OutDir: out})
	if !repaired.Gate.Passed() || repaired.Outputs[0].Reused || repaired.Outputs[0].Digest != second.Outputs[0].Digest {
		t.Errorf("a damaged output: %+v", repaired.Outputs)
	}
	if entries, err := os.ReadDir(out); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestRunGateBites: a fault whose digests were made to agree is still found,
// because the numbers are compared.
func TestRunGateBites(t *testing.T) {
	src, out := portable(t, 1, nil), t.TempDir()
	in := convert.Input{Checkpoint: src, Spec: both(), OutDir: out}
	mustRun(t, in)
	if err := converttest.Damage(filepath.Join(out, convert.W8A8Ascend), converttest.ExpertScaleDoubled); err != nil {
		t.Fatal(err)
	}
	rep := mustRun(t, in)
	if rep.Gate.Verdict != gate.Fail || !strings.Contains(rep.Gate.Reason, "experts.0.down_proj.weight") || rep.Outputs[1].Check.Violation == nil {
		t.Errorf("gate %+v", rep.Gate)
	}
}

func TestRunFailsTheGateForAnUnfitModel(t *testing.T) {
	nan := portable(t, 1, func(all map[string]tensor.Tensor) { setFloat(all["lm_head.weight"], 9, float32(math.NaN())) })
	rep := mustRun(t, convert.Input{Checkpoint: nan, Spec: both(), OutDir: t.TempDir()})
	if rep.Gate.Verdict != gate.Fail || !strings.Contains(rep.Gate.Reason, "lm_head.weight: element 9") || len(rep.Outputs) != 0 {
		t.Errorf("a NaN: %+v", rep)
	}
	torn := portable(t, 1, nil)
	if err := os.Truncate(filepath.Join(torn, "tokenizer.json"), 1); err != nil {
		t.Fatal(err)
	}
	rep = mustRun(t, convert.Input{Checkpoint: torn, Spec: both(), OutDir: t.TempDir()})
	if rep.Gate.Verdict != gate.Fail || !strings.Contains(rep.Gate.Reason, "tokenizer.json") {
		t.Errorf("a torn checkpoint: %+v", rep.Gate)
	}
}

func TestRunErrors(t *testing.T) {
	foreign := t.TempDir()
	if err := os.MkdirAll(filepath.Join(foreign, convert.BF16), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(foreign, convert.BF16, "thesis.txt"), "mine")
	for name, in := range map[string]convert.Input{
		"no formats":        {Checkpoint: deepseek, OutDir: t.TempDir()},
		"unknown format":    {Checkpoint: deepseek, OutDir: t.TempDir(), Spec: spec.Convert{Formats: []string{"int3"}}},
		"no checkpoint":     {Checkpoint: filepath.Join(foreign, "none"), OutDir: t.TempDir(), Spec: both()},
		"somebody's folder": {Checkpoint: deepseek, OutDir: foreign, Spec: both()},
	} {
		if rep, err := convert.Run(context.Background(), in); err == nil {
			t.Errorf("%s: %+v", name, rep)
		}
	}
	if string(read(t, filepath.Join(foreign, convert.BF16, "thesis.txt"))) != "mine" {
		t.Error("somebody's file is gone")
	}
}

// TestMain is also the process that TestKilledConversion kills.
func TestMain(m *testing.M) {
	if out := os.Getenv("CONVERT_TEST_PEAK"); out != "" {
		os.Exit(peak(out))
	}
	if out := os.Getenv("CONVERT_TEST_KILL"); out != "" {
		os.Exit(beKilled(out))
	}
	if out := os.Getenv("CONVERT_TEST_OUT"); out != "" {
		_, err := convert.Run(context.Background(), convert.Input{
			Checkpoint: os.Getenv("CONVERT_TEST_SRC"), Spec: both(), OutDir: out, Workers: 1,
			Progress: func(u progress.Update) {
				if strings.HasPrefix(u.Note, os.Getenv("CONVERT_TEST_AT")) {
					fmt.Println("ready")
					io.Copy(io.Discard, os.Stdin) // until killed
				}
			},
		})
		fmt.Println("ended", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// peak converts as the command does, which tells the runtime what the plan allows,
// and prints the most memory that this process has had.
func peak(out string) int {
	p, err := convert.Plan(context.Background(), os.Getenv("CONVERT_TEST_SRC"), os.Getenv("CONVERT_TEST_TO"), convert.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	debug.SetMemoryLimit(p.PeakMemory / 16 * 15)
	if _, err := convert.Convert(context.Background(), os.Getenv("CONVERT_TEST_SRC"), filepath.Join(out, "out"), os.Getenv("CONVERT_TEST_TO"), convert.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	n, err := resident()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(n)
	return 0
}

// TestKilledConversion kills a run in the middle of each format; the next run
// leaves the files of an undisturbed one, and nothing else.
func TestKilledConversion(t *testing.T) {
	src := portable(t, 7, nil)
	want := t.TempDir()
	mustRun(t, convert.Input{Checkpoint: src, Spec: both(), OutDir: want})
	for _, at := range []string{
		"bf16: model.layers.1.mlp.gate", "bf16: reading it back",
		"w8a8-ascend: model.embed", "w8a8-ascend: model.layers.2.self_attn.o_proj", "w8a8-ascend: reading it back",
	} {
		t.Run(at, func(t *testing.T) {
			out := t.TempDir()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "CONVERT_TEST_OUT="+out, "CONVERT_TEST_SRC="+src, "CONVERT_TEST_AT="+at)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, 64)
			if n, err := stdout.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), "ready") {
				t.Fatalf("the run said %q, %v", line[:n], err)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			cmd.Wait() // reports the kill
			rep := mustRun(t, convert.Input{Checkpoint: src, Spec: both(), OutDir: out})
			if !rep.Gate.Passed() {
				t.Errorf("gate %+v", rep.Gate)
			}
			for _, format := range both().Formats {
				if diff := cmp.Diff(listing(t, filepath.Join(want, format)), listing(t, filepath.Join(out, format))); diff != "" {
					t.Errorf("%s differs from an undisturbed run's", format)
				}
			}
			if entries, err := os.ReadDir(out); err != nil || len(entries) != 2 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
		})
	}
}
