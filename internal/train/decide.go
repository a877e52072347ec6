package train

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"tarbert/internal/checkpoint"
	"tarbert/internal/executor"
)

// Outcome is how an attempt ended.
type Outcome string

// Outcomes of an attempt.
const (
	Done       Outcome = "done"        // the done event at the target step
	Crashed    Outcome = "crashed"     // exit code other than 0, or a signal
	Early      Outcome = "early exit"  // exit code 0 without the done event: not success
	Hung       Outcome = "hung"        // no progress for longer than its section may take
	RankLost   Outcome = "rank lost"   // a rank's process is gone, the others wait
	NotFinite  Outcome = "not finite"  // NaN or infinite loss or gradient norm
	Spiked     Outcome = "loss spike"  // the loss went up and stayed there
	BadResume  Outcome = "bad resume"  // what it resumed does not go on as it was
	ChipFailed Outcome = "chip failed" // a chip's fault asks for the end of what runs on it
	DoNotRetry Outcome = "do not restart"
	// Interrupted is an attempt that a person stopped, Left one that was ended to
	// go on elsewhere: they neither count as fruitless nor clear the count.
	Interrupted Outcome = "interrupted"
	Left        Outcome = "left"
	// Unproven is exit code 0 of a script that does not speak the contract.
	Unproven Outcome = "unproven"
)

// Rung is a step of the recovery ladder, in MindCluster's words.
type Rung string

// The ladder. The trainer itself climbs retry and process, where it can, and
// says so with a recovery event; the others are the supervisor's.
const (
	RungRetry   Rung = "retry"   // do the step again, in the same processes
	RungProcess Rung = "process" // one rank's process anew, the others wait
	RungGroup   Rung = "group"   // all processes anew on the same chips, from the last good checkpoint
	RungTask    Rung = "task"    // the task anew on other chips
	RungDump    Rung = "dump"    // save what there is, then end
)

// exitDoNotRestart is the exit code by which a trainer asks not to be restarted
// (as NVIDIA's resiliency extension has it).
const exitDoNotRestart = 93

// Attempt is one start of the trainer.
type Attempt struct {
	Number      int       `json:"number"` // also the fencing token
	Task        string    `json:"task"`
	Pool        string    `json:"pool,omitempty"`
	Devices     []string  `json:"devices,omitempty"`
	Events      string    `json:"events"`      // its own file: a fenced attempt cannot write into the next one's
	Checkpoints string    `json:"checkpoints"` // its own folder, for the same reason
	Resume      string    `json:"resume,omitempty"`
	ResumeStep  int       `json:"resume_step"`
	Began       time.Time `json:"began"`
	Waited      float64   `json:"waited_seconds,omitempty"` // from then until it ran
	Over        time.Time `json:"ended,omitzero"`
	Phase       Phase     `json:"phase"`
	Outcome     Outcome   `json:"outcome,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Cause       string    `json:"cause,omitempty"` // what its log says of why
	ExitCode    int       `json:"exit_code"`       // -1 = ended by a signal
	Signal      string    `json:"signal,omitempty"`
	LastStep    int       `json:"last_step"`       // highest step event
	Reported    int       `json:"reported"`        // step events
	Saved       int       `json:"checkpoint_step"` // newest good checkpoint when it ended; -1 = none
	// Noticed is how long after the last sign of progress, or after its death, the trouble was seen.
	Noticed   float64   `json:"noticed_after_seconds,omitempty"`
	NoticedAt time.Time `json:"noticed_at,omitzero"`
	// From is the step from which on nothing it saved counts; 0 = all counts.
	From int    `json:"bad_from,omitempty"`
	Why  string `json:"bad_why,omitempty"`
	// Sealed are its checkpoints when it ended, with their manifests' digests: what comes later is not read.
	Sealed map[string]string `json:"sealed,omitempty"`
	Stacks string            `json:"stacks,omitempty"` // file with where its processes stood
	Ranks  map[int]rank      `json:"ranks,omitempty"`
	// Recovered counts what the trainer mended by its own means, by rung.
	Recovered map[Rung]int `json:"recovered,omitempty"`
	Degraded  bool         `json:"degraded,omitempty"` // supervised by its log
	// Skipped are newer checkpoints that were passed over when it began, with the reasons.
	Skipped []checkpoint.Skipped `json:"skipped,omitempty"`
	// Unknown counts how often the executor could not see the task.
	Unknown int `json:"unknown,omitempty"`
	// Log is the end of what the trainer printed, unless it was done.
	Log string `json:"log,omitempty"`
}

// rank is a rank's process.
type rank struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start,omitempty"`
}

// Adjust is what the trainer is asked to do otherwise: TARBERT_ADJUST.
type Adjust struct {
	Skip [][2]int `json:"skip,omitempty"`
	Rate []Slower `json:"lr,omitempty"`
}

// Slower scales the learning rate of steps.
type Slower struct {
	From  int     `json:"from"`
	To    int     `json:"to"`
	Scale float64 `json:"scale"`
}

// first is the first step that is touched, or a step that never comes.
func (a Adjust) first() int {
	least := int(^uint(0) >> 1)
	for _, s := range a.Skip {
		least = min(least, s[0])
	}
	for _, r := range a.Rate {
		least = min(least, r.From)
	}
	return least
}

// Snapshot is what Decide sees.
type Snapshot struct {
	Target   int       // the recipe's last step
	Limit    int       // attempts in a row without progress that end the run
	Attempts []Attempt // since the last verdict; all have ended
	// Newest checkpoint that counts; Step −1 = none.
	NewestStep int
	NewestDir  string
	Wide       int    // steps of a wide spike
	Program    string // why the last faults of chips are the program's
	Free       int    // chips of the pool that are not cordoned, spares included
	Need       int    // chips that the task needs; 0 = none are counted
	Cordoned   string // which are left out and why
	Moved      bool   // the chips of the next attempt are others than the last one's
}

// Action is what the supervisor does next.
type Action string

// Actions.
const (
	Start  Action = "start"
	Finish Action = "finish"
	Stop   Action = "stop"
)

// Decision is an action with its reason.
type Decision struct {
	Action Action
	Rung   Rung
	Resume string // for Start: the checkpoint to go on from, or empty
	Step   int
	Reason string
	Skip   [][2]int // steps to leave out from now on
	Slower []Slower
}

// Decide says what to do when no attempt is running.
func Decide(s Snapshot) Decision {
	step := max(s.NewestStep, 0)
	stop := func(format string, args ...any) Decision {
		return Decision{Action: Stop, Step: step, Reason: fmt.Sprintf(format, args...)}
	}
	if s.Need > 0 && s.Free < s.Need {
		return stop("the task needs %d chips and %d are fit: %s; give the pool spares, or mend them", s.Need, s.Free, s.Cordoned)
	}
	start := Decision{Action: Start, Resume: s.NewestDir, Step: step, Rung: RungGroup}
	if s.Moved {
		start.Rung = RungTask
	}
	if len(s.Attempts) == 0 {
		start.Reason, start.Rung = "first attempt", ""
		if s.NewestStep >= 0 {
			start.Reason = fmt.Sprintf("a checkpoint of step %d is there", s.NewestStep)
		}
		return start
	}
	last := s.Attempts[len(s.Attempts)-1]
	switch {
	case last.Outcome == Done && s.NewestStep == s.Target:
		return Decision{Action: Finish, Resume: s.NewestDir, Step: s.NewestStep, Reason: fmt.Sprintf("step %d reached, its checkpoint verifies", s.Target)}
	case last.Outcome == Unproven:
		return Decision{Action: Finish, Resume: s.NewestDir, Step: step, Reason: last.Reason}
	case last.Outcome == DoNotRetry:
		return stop("attempt %d ended with exit code %d: the trainer asks not to be restarted", last.Number, exitDoNotRestart)
	case last.Outcome == ChipFailed && s.Program != "":
		return stop("attempt %d: %s", last.Number, s.Program)
	}
	if n := unfruitful(s.Attempts); n >= max(s.Limit, 1)+3 {
		return stop("%d attempts in a row ended without a newer checkpoint than that of step %d, each with another trouble; the last one: %s", n, step, last.Reason)
	}
	why := last.Reason
	if last.Cause != "" {
		why += ": " + last.Cause
	}
	if n := fruitless(s.Attempts); n >= max(s.Limit, 1) {
		reason := fmt.Sprintf("%d attempts in a row ended without a newer checkpoint than that of step %d; the last one: %s", n, step, why)
		if said := lastLine(last.Log); said != "" {
			reason += fmt.Sprintf("; it said: %s", said)
		}
		return stop("%s", reason)
	}
	start.Reason = fmt.Sprintf("attempt %d %s (%s): %s, go on from step %d", last.Number, last.Outcome, why, start.Rung, step)
	switch last.Outcome {
	case NotFinite, Spiked:
		return s.numeric(start, last)
	case BadResume:
		if n := row(s.Attempts, BadResume); n >= 2 {
			return stop("attempts %d and %d resumed two different checkpoints, and neither went on as it was: the trainer does not resume what it saves (%s)", last.Number-1, last.Number, last.Reason)
		}
	}
	return start
}

// numeric is the ladder for numbers that went wrong: once more from before (a
// chip may have erred), then leave the update out, then a lower rate, then stop.
// A spike begins with leaving out: its data are known to do harm.
func (s Snapshot) numeric(d Decision, last Attempt) Decision {
	same := 0
	for _, a := range s.Attempts {
		if a.Outcome == last.Outcome && a.From > 0 && abs(a.From-last.From) <= s.Wide {
			same++
		}
	}
	if last.Outcome == Spiked {
		same++
	}
	from := max(last.From, 1)
	switch same {
	case 0, 1:
		d.Rung = RungRetry
		d.Reason = fmt.Sprintf("attempt %d: %s: back to step %d and once more; it may have been the chip", last.Number, last.Reason, d.Step)
	case 2:
		d.Rung = RungRetry
		d.Skip = [][2]int{{from, from}}
		d.Reason = fmt.Sprintf("attempt %d: %s: back to step %d, without the update of step %d", last.Number, last.Reason, d.Step, from)
	case 3:
		d.Rung = RungRetry
		d.Slower = []Slower{{From: from, To: from + 2*s.Wide, Scale: 0.5}}
		d.Reason = fmt.Sprintf("attempt %d: %s: back to step %d, at half the learning rate for steps %d to %d", last.Number, last.Reason, d.Step, from, from+2*s.Wide)
	default:
		return Decision{Action: Stop, Step: d.Step, Reason: fmt.Sprintf("attempt %d: %s, again after a retry, without that update and at half the rate; lower the learning rate or look at the data near step %d", last.Number, last.Reason, from)}
	}
	return d
}

func abs(n int) int { return max(n, -n) }

// row counts the newest attempts that ended so.
func row(attempts []Attempt, o Outcome) int {
	n := 0
	for _, a := range slices.Backward(attempts) {
		if a.Outcome != o {
			break
		}
		n++
	}
	return n
}

// lastLine is what a trainer said last: most often why it ended.
func lastLine(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// fruitless counts the newest attempts that left no newer checkpoint than they
// began with. Those that the ladder for numbers answers differently each time
// are bounded by that, and one that ended because a chip failed is the chip's.
func fruitless(attempts []Attempt) int {
	n := 0
	for _, a := range slices.Backward(attempts) {
		switch a.Outcome {
		case Interrupted, Left, ChipFailed, NotFinite, Spiked, BadResume:
			continue
		}
		if a.Saved > a.ResumeStep {
			break
		}
		n++
	}
	return n
}

// unfruitful counts the same whatever they ended of, unless somebody wanted them to.
func unfruitful(attempts []Attempt) int {
	n := 0
	for _, a := range slices.Backward(attempts) {
		if a.Outcome == Interrupted || a.Outcome == Left {
			continue
		}
		if a.Saved > a.ResumeStep {
			break
		}
		n++
	}
	return n
}

// ending is what is known of an attempt whose process has ended.
type ending struct {
	status   executor.Status
	target   int
	done     bool // the done event was seen, at step
	step     int
	last     int      // highest step reported
	trouble  *trouble // why we ended it, if we did
	degraded bool     // it does not speak the contract
}

// judge names the outcome of an attempt. That a trainer which did all its work
// ends badly afterwards is noted, and costs nothing.
func judge(e ending) (Outcome, string) {
	how := manner(e.status)
	numeric := e.trouble != nil && (e.trouble.Outcome == NotFinite || e.trouble.Outcome == Spiked || e.trouble.Outcome == BadResume)
	switch {
	case numeric:
		return e.trouble.Outcome, e.trouble.Reason
	case e.done && e.step == e.target:
		return Done, fmt.Sprintf("done at step %d, %s", e.step, how)
	case e.trouble != nil:
		return e.trouble.Outcome, e.trouble.Reason
	case e.status.ExitCode == exitDoNotRestart:
		return DoNotRetry, how
	case e.done:
		return Early, fmt.Sprintf("said done at step %d of %d, %s", e.step, e.target, how)
	case e.status.ExitCode == 0 && e.status.Signal == "" && e.degraded && e.last >= e.target:
		return Unproven, fmt.Sprintf("exit code 0 after step %d by its log; it does not speak the contract", e.last)
	case e.status.ExitCode == 0 && e.status.Signal == "":
		return Early, "exit code 0 without the done event"
	}
	return Crashed, how
}

// manner is how a process ended, in words.
func manner(st executor.Status) string {
	how := fmt.Sprintf("exit code %d", st.ExitCode)
	if st.Signal != "" {
		how = "signal: " + st.Signal
	}
	if st.Reason != "" {
		how += ", " + st.Reason
	}
	return how
}
