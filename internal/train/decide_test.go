package train

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarbert/internal/executor"
)

func TestDecide(t *testing.T) {
	crashed := func(n, from, saved int) Attempt {
		return Attempt{Number: n, Phase: Ended, Outcome: Crashed, Reason: "signal: killed", ResumeStep: from, Saved: saved}
	}
	tests := []struct {
		name string
		in   Snapshot
		want Action
		from string
	}{
		{"first attempt", Snapshot{Target: 10, Limit: 3, NewestStep: -1}, Start, ""},
		{"a checkpoint is already there", Snapshot{Target: 10, Limit: 3, NewestStep: 4, NewestDir: "c4"}, Start, "c4"},
		{"done and verified", Snapshot{Target: 10, Limit: 3, Attempts: []Attempt{{Phase: Ended, Outcome: Done}}, NewestStep: 10, NewestDir: "c10"}, Finish, "c10"},
		{"done, but the last checkpoint is torn", Snapshot{Target: 10, Limit: 3, Attempts: []Attempt{{Phase: Ended, Outcome: Done, Saved: 5}}, NewestStep: 5, NewestDir: "c5"}, Start, "c5"},
		{"crash with progress", Snapshot{Target: 10, Limit: 3, Attempts: []Attempt{crashed(1, 0, 5)}, NewestStep: 5, NewestDir: "c5"}, Start, "c5"},
		{"exit 0 too early", Snapshot{Target: 10, Limit: 3, Attempts: []Attempt{{Phase: Ended, Outcome: Early, Saved: 5}}, NewestStep: 5, NewestDir: "c5"}, Start, "c5"},
		{"crash loop", Snapshot{Target: 10, Limit: 3, Attempts: []Attempt{crashed(1, 0, 5), crashed(2, 5, 5), crashed(3, 5, 5), crashed(4, 5, 5)}, NewestStep: 5}, Stop, ""},
		{"progress clears the count", Snapshot{Target: 10, Limit: 3, Attempts: []Attempt{crashed(1, 0, 0), crashed(2, 0, 0), crashed(3, 0, 2), crashed(4, 2, 2)}, NewestStep: 2, NewestDir: "c2"}, Start, "c2"},
		{"not a number, once: it may have been the chip", Snapshot{Target: 10, Limit: 3, Wide: 2, Attempts: []Attempt{{Phase: Ended, Outcome: NotFinite, From: 6, Saved: 5}}, NewestStep: 5, NewestDir: "c5"}, Start, "c5"},
		{"not a number, whatever was tried", Snapshot{Target: 10, Limit: 3, Wide: 2, Attempts: slices.Repeat([]Attempt{{Phase: Ended, Outcome: NotFinite, From: 6, ResumeStep: 5, Saved: 5}}, 4), NewestStep: 5}, Stop, ""},
		{"a spike is left out first", Snapshot{Target: 10, Limit: 3, Wide: 2, Attempts: []Attempt{{Phase: Ended, Outcome: Spiked, From: 6, Saved: 5}}, NewestStep: 5, NewestDir: "c5"}, Start, "c5"},
		{"a spike that stays", Snapshot{Target: 10, Limit: 3, Wide: 2, Attempts: slices.Repeat([]Attempt{{Phase: Ended, Outcome: Spiked, From: 6, ResumeStep: 5, Saved: 5}}, 3), NewestStep: 5}, Stop, ""},
		{"two checkpoints that do not go on", Snapshot{Target: 10, Limit: 3, Attempts: []Attempt{{Number: 2, Phase: Ended, Outcome: BadResume, Saved: 4}, {Number: 3, Phase: Ended, Outcome: BadResume, Saved: 2}}, NewestStep: 2}, Stop, ""},
		{"too few chips", Snapshot{Target: 10, Limit: 3, Need: 8, Free: 7, Cordoned: "7 (Xid 79)", NewestStep: -1}, Stop, ""},
		{"faults of the program", Snapshot{Target: 10, Limit: 3, Program: "on two chips at once", Attempts: []Attempt{{Phase: Ended, Outcome: ChipFailed, Saved: 5}}, NewestStep: 5}, Stop, ""},
		{"an interruption neither counts nor clears", Snapshot{Target: 10, Limit: 3, Attempts: []Attempt{crashed(1, 0, 0), crashed(2, 0, 0), {Phase: Ended, Outcome: Interrupted}, crashed(4, 0, 0)}, NewestStep: 0}, Stop, ""},
		{"an interruption is no failure", Snapshot{Target: 10, Limit: 1, Attempts: []Attempt{{Phase: Ended, Outcome: Interrupted, Saved: -1}}, NewestStep: -1}, Start, ""},
		{"asked not to be restarted", Snapshot{Target: 10, Limit: 3, Attempts: []Attempt{{Phase: Ended, Outcome: DoNotRetry, Saved: 5}}, NewestStep: 5}, Stop, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Decide(tt.in)
			if got.Action != tt.want || got.Resume != tt.from && tt.want != Stop {
				t.Errorf("Decide = %+v, want %s from %q", got, tt.want, tt.from)
			}
			if got.Reason == "" {
				t.Error("a decision without a reason")
			}
		})
	}
}

// However attempts end, the run is bounded: without progress it stops.
func TestDecideEndsEveryCrashLoop(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Snapshot{Target: 1000, Limit: rapid.IntRange(1, 5).Draw(t, "limit"), NewestStep: -1}
		progress := rapid.SliceOfN(rapid.IntRange(0, 3), 0, 20).Draw(t, "progress")
		for i := 0; ; i++ {
			d := Decide(s)
			if d.Action == Stop {
				return
			}
			if i > len(progress)+s.Limit {
				t.Fatalf("attempt %d is started though the last %d made no progress", i+1, s.Limit)
			}
			saved := max(s.NewestStep, 0)
			if i < len(progress) {
				saved += progress[i]
			}
			s.Attempts = append(s.Attempts, Attempt{Number: i + 1, Phase: Ended, Outcome: Crashed, Reason: "exit code 1", ResumeStep: d.Step, Saved: saved})
			s.NewestStep = saved
		}
	})
}

func TestJudge(t *testing.T) {
	exited := executor.Status{State: executor.Exited}
	killed := executor.Status{State: executor.Exited, ExitCode: -1, Signal: "killed"}
	tests := []struct {
		name string
		end  ending
		want Outcome
		says string
	}{
		{"done at the target", ending{status: exited, done: true, step: 10}, Done, "step 10"},
		{"done, then badly ended", ending{status: killed, done: true, step: 10}, Done, "killed"},
		{"done at another step", ending{status: exited, done: true, step: 9}, Early, "9 of 10"},
		{"exit code 0 alone is not success", ending{status: exited}, Early, "without the done event"},
		{"killed", ending{status: killed}, Crashed, "killed"},
		{"crashed", ending{status: executor.Status{ExitCode: 7, Reason: "because"}}, Crashed, "exit code 7, because"},
		{"exit code 93", ending{status: executor.Status{ExitCode: 93}}, DoNotRetry, "93"},
		{"not finite wins", ending{status: exited, done: true, step: 10, trouble: &trouble{Outcome: NotFinite, Reason: "loss is not finite at step 3"}}, NotFinite, "step 3"},
		{"interrupted", ending{status: killed, trouble: &trouble{Outcome: Interrupted, Reason: "interrupted"}}, Interrupted, "interrupted"},
		{"done before it could be interrupted", ending{status: killed, done: true, step: 10, trouble: &trouble{Outcome: Interrupted}}, Done, "step 10"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.end.target = 10
			if got, reason := judge(tt.end); got != tt.want || !strings.Contains(reason, tt.says) {
				t.Errorf("judge = %s (%q), want %s with %q", got, reason, tt.want, tt.says)
			}
		})
	}
}

// An attempt cannot skip a phase or come back from its end.
func TestPhases(t *testing.T) {
	allowed := map[[2]Phase]bool{
		{Starting, Starting}: true, {Starting, Watching}: true, {Starting, Stopping}: true,
		{Watching, Stopping}: true, {Stopping, Ended}: true,
	}
	all := []Phase{Starting, Watching, Stopping, Ended}
	for _, from := range all {
		for _, to := range all {
			if got := from.mayBecome(to); got != allowed[[2]Phase{from, to}] {
				t.Errorf("%s may become %s: %v", from, to, got)
			}
		}
	}
}

// Whatever happens in whatever order (deaths of the supervisor, a clock that is
// set back), the classes sum to the wall time and none is negative.
func TestLedgerIsClosed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := time.Unix(1e9, 0)
		now, latest := start, start
		c := newClock(now, 3, 2)
		held, devices := 3, 0.0
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(-500, 5000).Draw(t, "ms")) * time.Millisecond)
			step := rapid.IntRange(0, 5).Draw(t, "step")
			if now.After(latest) {
				devices += now.Sub(latest).Seconds() * float64(held)
				latest = now
			}
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0, 1, 2:
				c.enter(classOf(rapid.SampledFrom([]string{"setup", "step", "checkpoint", "rollout", "eval", "odd"}).Draw(t, "section"), 1+step), now)
			case 3:
				c.mark(step, now)
			case 4:
				c.enter(classRecovery, now)
				c.rewind(step)
			case 6:
				c.hung(time.Duration(rapid.IntRange(0, 9000).Draw(t, "silent"))*time.Millisecond, now)
			case 7:
				c.hold(step+1, 2, now)
				held = step + 1
			case 5: // the supervisor died and came back: everything goes through the file
				b, err := json.Marshal(c)
				if err != nil {
					t.Fatal(err)
				}
				c = nil
				if err := json.Unmarshal(b, &c); err != nil {
					t.Fatal(err)
				}
				c.absent(now)
			}
		}
		c.enter(classSupervision, now)
		l := c.ledger()
		sum := 0.0
		for class, s := range l.Classes {
			if s < 0 || l.Devices[class] < 0 || l.Money[class] < -1e-9 {
				t.Fatalf("%s has %v s, %v device-seconds, %v money", class, s, l.Devices[class], l.Money[class])
			}
			sum += s
		}
		if math.Abs(l.DeviceSeconds-devices) > 1e-5 || math.Abs(l.MoneyTotal-devices/3600*2) > 1e-6 {
			t.Fatalf("%v device-seconds, %v money; want %v device-seconds", l.DeviceSeconds, l.MoneyTotal, devices)
		}
		if want := latest.Sub(start).Seconds(); math.Abs(l.Wall-want) > 1e-6 || math.Abs(sum-want) > 1e-6 {
			t.Fatalf("wall %v s and classes %v s of %v s: %v", l.Wall, sum, want, l.Classes)
		}
	})
}

func TestLostWorkIsWhatIsDoneAgain(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	c := newClock(at(0), 2, 1)
	c.enter(classSetup, at(0))
	c.enter(classStep, at(2))         // 2 s of setup
	c.mark(5, at(12))                 // 10 s of steps are safe
	c.enter(classRollout, at(15))     // 3 s more
	c.enter(classRecovery, at(19))    // 4 s of rollout, then a crash
	c.rewind(5)                       // back to the checkpoint of step 5
	c.enter(classStep, at(20))        // 1 s of recovery
	c.enter(classSupervision, at(30)) // 10 s of steps
	got := c.ledger()
	want := map[string]float64{classSetup: 2, classStep: 20, classRollout: 0, classLost: 7, classRecovery: 1}
	for class, s := range want {
		if math.Abs(got.Classes[class]-s) > 1e-9 {
			t.Errorf("%s = %v s, want %v", class, got.Classes[class], s)
		}
	}
	if got.Wall != 30 {
		t.Errorf("wall = %v s, want 30", got.Wall)
	}
}

// Going back further than the last attempt began, as a move to another pool may,
// takes the earlier attempts' work back as well, at what it cost then.
func TestLostWorkOfEarlierAttempts(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	c := newClock(at(0), 2, 1)
	c.enter(classStep, at(0))
	c.mark(5, at(10)) // 10 s are safe
	c.enter(classRecovery, at(20))
	c.rewind(5) // 10 s are lost
	c.enter(classStep, at(20))
	c.mark(8, at(30))    // 10 s more are safe
	c.hold(4, 3, at(35)) // other chips
	c.mark(8, at(36))    // and the same step again
	c.tick(at(40))       // 5 s there
	c.enter("", at(40))  // nobody's
	c.rewind(7)          // of 5 and 8, 5 is the one that counts
	got := c.ledger()
	if got.Classes[classStep] != 10 || got.Classes[classLost] != 30 {
		t.Errorf("%v s of steps and %v s lost, want 10 and 30", got.Classes[classStep], got.Classes[classLost])
	}
	if want := 2.0*10 + 2*15 + 4*5; got.Devices[classLost] != want {
		t.Errorf("%v device-seconds lost, want %v", got.Devices[classLost], want)
	}
	if want := (2.0*10 + 2*15 + 3*4*5) / 3600; math.Abs(got.Money[classLost]-want) > 1e-12 {
		t.Errorf("%v money lost, want %v", got.Money[classLost], want)
	}
	for step := range 3 * mostKept {
		c.mark(step, at(40))
	}
	if len(c.Kept) > mostKept {
		t.Errorf("%d checkpoints are remembered, want at most %d", len(c.Kept), mostKept)
	}
	if _, newest := c.Kept[3*mostKept-1]; !newest {
		t.Error("the newest checkpoint is not remembered")
	}
}
