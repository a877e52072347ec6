package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarbert/internal/checkpoint"
	"tarbert/internal/convert/converttest"
	"tarbert/internal/gate"
	"tarbert/internal/release"
	"tarbert/internal/spec"
)

// storedTrainer is a trainer that speaks the contract and trains nothing: it
// leaves a stored, trained model as the checkpoint of the last step. Any
// program may be a trainer.
func storedTrainer(model string) error {
	raw, err := os.ReadFile(os.Getenv("TARBERT_RECIPE"))
	if err != nil {
		return err
	}
	var recipe spec.Recipe
	if err := json.Unmarshal(raw, &recipe); err != nil {
		return err
	}
	events, err := os.OpenFile(os.Getenv("TARBERT_EVENTS"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer events.Close()
	for _, at := range []struct {
		step  int
		stage string
	}{{recipe.Train.SFT.Steps, "sft"}, {recipe.Steps(), "grpo"}} {
		fmt.Fprintf(events, `{"event":"step","step":%d,"loss":0.1,"grad_norm":1,"tokens":1}`+"\n", at.step)
		w, err := checkpoint.Begin(os.Getenv("TARBERT_CHECKPOINTS"), at.step)
		if err != nil {
			return err
		}
		if err := os.CopyFS(w.Dir(), os.DirFS(model)); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(w.Dir(), "PROVENANCE.md")); err != nil {
			return err
		}
		dir, err := w.Commit(checkpoint.State{Step: at.step, Stage: at.stage, Writer: checkpoint.Identity{Trainer: "stored"}})
		if err != nil {
			return err
		}
		fmt.Fprintf(events, `{"event":"checkpoint","step":%d,"dir":%q}`+"\n", at.step, dir)
	}
	_, err = fmt.Fprintf(events, `{"event":"done","step":%d}`+"\n", recipe.Steps())
	return err
}

// The gate bites: a release whose converted model is damaged behind its back is
// blocked at verify, on the example's own margins; the same release without
// damage goes through.
func TestPlantedFaultsBlockTheRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("verifies five deployments")
	}
	stored, err := filepath.Abs("testdata/trained")
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range append([]string{""}, converttest.Kinds()...) {
		name := fault
		if name == "" {
			name = "no fault"
		}
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			a := &app{IO: IO{Out: &out, Err: &errs}, home: filepath.Join(t.TempDir(), "home"), now: time.Now}
			s, err := spec.Load("../../examples/sums")
			if err != nil {
				t.Fatal(err)
			}
			s.Serve.Addr, s.Qualify.TwinSteps = "127.0.0.1:0", 2
			deps, done, err := a.deps(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			defer done()
			s.Train.Trainer, s.Train.Command = spec.TrainerCommand, []string{filepath.Join(deps.Home, "bin", "tarbert"), "stored-trainer", stored}
			s.Qualify.Waivers = []spec.CheckWaiver{{Checks: spec.Waivable(), By: "the test", Why: "a stored model stands for a trained one"}}
			deps.Watch = func(e release.Event) {
				if e.Stage != "convert" || e.State != release.Ended || fault == "" {
					return
				}
				dirs, err := filepath.Glob(filepath.Join(deps.Home, "releases", "*", "convert-*", "w8a8-ascend"))
				if err != nil || len(dirs) != 1 {
					t.Fatalf("converted models: %v, %v", dirs, err)
				}
				if err := converttest.Damage(dirs[0], fault); err != nil {
					t.Fatal(err)
				}
			}
			res, err := release.Run(context.Background(), deps, s, release.Options{})
			if err != nil {
				t.Fatal(err)
			}
			last := res.Stages[len(res.Stages)-1]
			text := renderResult(res, release.Options{})
			if fault == "" {
				if !res.Released {
					t.Fatalf("the honest candidate is not released\n%s", text)
				}
				namesWhatWasWaived(t, res.Certificate)
				watchesItsCertificate(t, res.Certificate)
				return
			}
			if res.Released || last.Stage != "verify" || last.Gate.Verdict != gate.Fail {
				t.Fatalf("released with %s, or stopped elsewhere\n%s", fault, text)
			}
			for _, want := range []string{"BLOCKED", "at verify: fail", "evidence", "report.json"} {
				if !strings.Contains(text, want) {
					t.Errorf("the result does not say %q\n%s", want, text)
				}
			}
			t.Logf("\n%s", text)
		})
	}
}

// What qualify could not check, and who went on without, is in the certificate.
func namesWhatWasWaived(t *testing.T, certificate string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := Run(context.Background(), []string{"certificate", "show", certificate}, IO{Out: &out, Err: &errs}); code != 0 {
		t.Fatalf("exit code %d\n%s", code, errs.String())
	}
	for _, want := range []string{"qualify's parity of pool cpu waived by the test without end: a stored model", "qualify's parity of pool cpu: the trainer does not know TARBERT_REPLAY"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the certificate does not say %q\n%s", want, out.String())
		}
	}
}

// What is served after the release is watched against what its certificate binds:
// its baseline is found, and an endpoint that is not there is no drift.
func watchesItsCertificate(t *testing.T, certificate string) {
	t.Helper()
	var out, errs bytes.Buffer
	code := Run(context.Background(), []string{"--home", t.TempDir(), "verify", "--watch", "--once", "--timeout", "1s", "--patience", "1ms",
		"--candidate", "http://127.0.0.1:1", "--certificate", certificate}, IO{Out: &out, Err: &errs})
	if code != 0 || !strings.HasPrefix(out.String(), "NO DRIFT") || !strings.Contains(errs.String(), "no answer (not drift)") {
		t.Errorf("exit code %d\n%s%s", code, out.String(), errs.String())
	}
}
