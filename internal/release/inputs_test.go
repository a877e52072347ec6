package release

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"tarbert/internal/label"
	"tarbert/internal/plan"
	"tarbert/internal/spec"
	"tarbert/internal/store"
	"tarbert/internal/train"
)

// The train stage begins anew when the script of the pool that trains changes,
// wherever the scripts lie; a fallback's may be mended until a run has ended with it.
func TestTrainInputsHoldTheScripts(t *testing.T) {
	r, dir := twoPools(t)
	first := trainDigest(t, r)

	write(t, filepath.Join(dir, "a.sh"), "changed")
	if trainDigest(t, r) == first {
		t.Error("the script of the pool that trains has changed, and the inputs have not")
	}
	write(t, filepath.Join(dir, "a.sh"), "a")
	if trainDigest(t, r) != first {
		t.Error("the script is as it was, and the inputs are not")
	}
	write(t, filepath.Join(dir, "b.sh"), "mended")
	if trainDigest(t, r) != first {
		t.Error("the fallback's script was mended, and the run would begin anew")
	}

	other, _ := twoPools(t)
	if trainDigest(t, other) != first {
		t.Error("the inputs depend on where the folder lies")
	}
	other.spec.Train.Command[1] = "--slow"
	if trainDigest(t, other) == first {
		t.Error("the inputs do not hold the command's text")
	}
}

func TestTrainInputsHoldTheScriptThatARunEndedWith(t *testing.T) {
	r, dir := twoPools(t)
	first := trainDigest(t, r)
	ended := func(pool string) {
		t.Helper()
		program, err := programOf(r.spec.TrainerOf(pool))
		if err != nil {
			t.Fatal(err)
		}
		report, err := json.Marshal(train.Report{Pool: pool, Program: program})
		if err != nil {
			t.Fatal(err)
		}
		evidence := filepath.Join(t.TempDir(), "report.json")
		write(t, evidence, string(report))
		data, err := json.Marshal(StageResult{Evidence: evidence})
		if err != nil {
			t.Fatal(err)
		}
		r.records = append(r.records, store.Record{Stage: "train", Event: "passed", Digest: trainDigest(t, r), Data: data})
	}
	ended("b")
	if trainDigest(t, r) != first {
		t.Error("nothing has changed since, and the run would begin anew")
	}
	write(t, filepath.Join(dir, "b.sh"), "changed")
	second := trainDigest(t, r)
	if second == first {
		t.Error("the script that ended the run has changed, and the inputs have not")
	}
	ended("a") // the run on these inputs stayed where it was
	if trainDigest(t, r) != second {
		t.Error("the second run would begin anew")
	}
	write(t, filepath.Join(dir, "b.sh"), "b")
	if trainDigest(t, r) != first {
		t.Error("the script is as it was when the first run ended, and the inputs are not")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// twoPools is a run that trains in pool a, with b to fall back to, each with a script of its own.
func twoPools(t *testing.T) (*run, string) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.sh"), "a")
	write(t, filepath.Join(dir, "b.sh"), "b")
	s := spec.New()
	s.Train.Trainer, s.Train.Command = spec.TrainerCommand, []string{filepath.Join(dir, "a.sh"), "--fast"}
	s.Pools = []spec.Pool{
		{Name: "a", Roles: []spec.Role{spec.Preferred}},
		{Name: "b", Roles: []spec.Role{spec.Fallback}, Command: []string{"sh", filepath.Join(dir, "b.sh")}},
	}
	return &run{spec: s, label: &label.Report{}, plan: &plan.Plan{Train: &plan.Placement{Pool: "a"}}}, dir
}

func trainDigest(t *testing.T, r *run) string {
	t.Helper()
	inputs, err := trainInputs(r)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := digestOf("train", trainVersion, inputs)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}
