package train

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/plan"
)

// withFallback gives a run a second pool of CPU processes under another name.
// Its notes, and so its plan of faults, are its own.
func withFallback(in *Input, dir string, authorized bool) {
	b := in.Pool
	b.Name, b.Argv, b.Price = "b", self("group", filepath.Join(dir, "b")), 3
	b.Devices = []device.Device{{ID: "b-0"}, {ID: "b-1"}}
	in.Fallback = &Fallback{
		Pool: b, Authorized: authorized, Again: time.Millisecond, Budgets: Budgets{Hangs: 2},
		Consider: func(_ plan.Terms, e plan.Evidence) (plan.Decision, error) {
			if _, err := (plan.Terms{Step: 1}).Situation(e); err != nil { // what the real rule would refuse
				return plan.Decision{}, err
			}
			return plan.Decision{Action: plan.Switch, Confidence: 0.99, Reasons: []string{"the other side is earlier"}}, nil
		},
	}
}

func fallbackRun(t *testing.T, p, q groupPlan, authorized bool) (string, Input) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := groupInput(filepath.Join(dir, "b"), q); err != nil {
		t.Fatal(err)
	}
	in, err := groupInput(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	in.Limits = Limits{Floor: 700 * time.Millisecond, Unit: 700 * time.Millisecond, First: 20 * time.Second}
	withFallback(&in, dir, authorized)
	return dir, in
}

// A pool that hangs again and again spends its budget: the run goes on in the
// other pool, from the last proven checkpoint, with the same weights in the end.
func TestFallback(t *testing.T) {
	hangs := groupPlan{Faults: []planted{{Kind: "stop", Step: 25, Rank: 1, Times: 1}, {Kind: "stop", Step: 38, Rank: 2}}}
	for _, tt := range []struct {
		name       string
		other      groupPlan
		authorized bool
		phase      MovePhase
		pool       string
	}{
		{"parity passes", groupPlan{}, true, Moved, "b"},
		{"parity fails", groupPlan{Parity: 1.5}, true, Refused, "a"},
		{"parity cannot be told", groupPlan{Faults: []planted{{Kind: "replay-crash"}}}, true, Refused, "a"},
		{"nobody has authorised it", groupPlan{}, false, Advised, "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir, in := fallbackRun(t, hangs, tt.other, tt.authorized)
			r := run(t, in)
			sound(t, dir, r)
			if len(r.Moves) == 0 || r.Moves[0].Phase != tt.phase || r.Pool != tt.pool {
				t.Fatalf("moves %+v, ended in pool %q\n%s", r.Moves, r.Pool, r.Text())
			}
			m := r.Moves[0]
			if len(m.Spent) != 1 || !strings.Contains(m.Spent[0], "2 hangs that nothing explains") || m.Arithmetic == "" {
				t.Errorf("the arithmetic is missing: %+v", m)
			}
			if tt.pool == "a" { // it goes on hanging there, and ends of it
				if r.Gate.Verdict != gate.Fail {
					t.Errorf("gate %+v", r.Gate)
				}
				if tt.phase == Refused && (m.Parity == nil || m.Parity.Passed || len(m.Parity.Reasons) == 0) {
					t.Errorf("parity %+v", m.Parity)
				}
				return
			}
			scenario{}.finished(t, r)
			if !m.Proven || m.Step != 20 || !m.Parity.Passed || m.Parity.Judge != "a" {
				t.Errorf("move %+v", m)
			}
			last := r.Attempts[len(r.Attempts)-1]
			if last.Pool != "b" || last.ResumeStep != m.Step || !slices.Equal(last.Devices, []string{"b-0", "b-1"}) {
				t.Errorf("last attempt %+v", last)
			}
			if r.Ledger.Classes[classMigration] <= 0 || r.Ledger.DeviceSeconds <= r.Ledger.Wall {
				t.Errorf("ledger %+v", r.Ledger)
			}
			t.Log("\n" + r.Text() + lossCurve(r))
		})
	}
}

// lossCurve draws the loss, a line every four steps.
func lossCurve(r *Report) string {
	var b strings.Builder
	for _, s := range r.Series {
		if s.Name != "loss" {
			continue
		}
		for i, p := range s.Points {
			if i%4 == 3 {
				b.WriteString(strings.Repeat("▪", int(p[1]*20)) + "\n")
			}
		}
	}
	return b.String()
}

// The supervisor is killed at its writes while it hangs, restarts and moves. The
// end is the same, and there is never a second writer. Every third write here,
// each of them in make soak.
func TestSupervisorIsKilledThroughAMove(t *testing.T) { killedThroughAMove(t, 3) }

func killedThroughAMove(t *testing.T, stride int) {
	const most = 22
	var killed, through atomic.Int32
	t.Run("kill", func(t *testing.T) {
		for n := 1; n <= most; n += stride {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				t.Parallel()
				hangs := groupPlan{Faults: []planted{{Kind: "stop", Step: 25, Rank: 1}}}
				dir, in := fallbackRun(t, hangs, groupPlan{}, true)
				in.Fallback.Budgets.Hangs = 1
				if err := os.WriteFile(filepath.Join(dir, "fallback"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
				if superviseUntil(t, dir, n) {
					through.Add(1)
				} else {
					killed.Add(1)
				}
				r := run(t, in)
				sound(t, dir, r)
				scenario{}.finished(t, r)
				if len(r.Moves) != 1 || r.Moves[0].Phase != Moved {
					t.Errorf("moves %+v", r.Moves)
				}
			})
		}
	})
	// Two attempts of four writes, three of the move, the report.
	if want := int32(12 / stride); killed.Load() < want || through.Load() == 0 {
		t.Errorf("killed at %d writes, want at least %d; %d supervisors got through", killed.Load(), want, through.Load())
	}
}

// superviseUntil runs a supervisor that dies at its n-th write; alive: it had fewer.
func superviseUntil(t *testing.T, dir string, n int) (alive bool) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(self()[0], "group-supervisor", dir, strconv.Itoa(n))
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err != nil && !killedBy(cmd, syscall.SIGKILL) {
		t.Fatalf("kill %d: %v\n%s", n, err, stderr.String())
	}
	return err == nil
}

// Parity breaches decide at once, by the plan's own rule, and what was saved since
// they began is left behind, proven or not, unless there is nothing else.
func TestParityBreachesAreLeftBehind(t *testing.T) {
	for _, tt := range []struct {
		name string
		from int
		step func(int) bool // of the checkpoint that the run goes on from
		says string
	}{
		{"after two saves", 25, func(step int) bool { return step == 20 }, "from the last good checkpoint from before the breaches began in step 25 (none was proven), step 20"},
		{"before the first save", 5, func(step int) bool { return step > 5 }, "none is left from before the breaches began in step 5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir, in := fallbackRun(t, groupPlan{Faults: []planted{{Kind: "mismatch", Step: tt.from, X: 0.3}}}, groupPlan{}, true)
			in.Fallback.Consider, in.Fallback.Budgets = nil, Budgets{Breaches: 3}
			in.Fallback.Terms = plan.Terms{
				Step: 1, Planned: 1, Expected: plan.Range{Low: 0.5, High: 1}, Other: plan.Side{Rate: plan.Range{Low: 0.5, High: 1}}, PreAuthorized: true,
				Budget: plan.Budget{Breaches: 3},
			}
			r := run(t, in)
			sound(t, dir, r)
			scenario{}.finished(t, r)
			if len(r.Moves) != 1 || r.Moves[0].Phase != Moved || r.Pool != "b" {
				t.Fatalf("moves %+v, ended in pool %q\n%s", r.Moves, r.Pool, r.Text())
			}
			m := r.Moves[0]
			if m.Decision.Action != plan.Switch || m.Proven || m.BreachFrom != tt.from || !tt.step(m.Step) {
				t.Errorf("decision %+v, from step %d, breaches from %d", m.Decision, m.Step, m.BreachFrom)
			}
			if !strings.Contains(r.Text(), tt.says) {
				t.Errorf("the report does not say %q:\n%s", tt.says, r.Text())
			}
		})
	}
}

// A parity check that holds ends a row of breaches.
func TestRowsOfBreaches(t *testing.T) {
	s := newSupervisor(Input{})
	s.state = &state{}
	for i, step := range []struct {
		step, breaches, from int
		holds                bool
	}{{5, 1, 5, false}, {6, 2, 5, false}, {7, 0, 0, true}, {9, 1, 9, false}, {8, 2, 8, false}} {
		if s.parity(step.step, step.holds); s.state.Breaches != step.breaches || s.state.BreachFrom != step.from {
			t.Errorf("check %d: %d in a row from step %d, want %d from %d", i+1, s.state.Breaches, s.state.BreachFrom, step.breaches, step.from)
		}
	}
}
