package train

import (
	"fmt"
	"slices"
	"strings"

	"tarbert/internal/checkpoint"
	"tarbert/internal/executor"
)

// Outcome is how an attempt ended.
type Outcome string

// Outcomes of an attempt.
const (
	Done       Outcome = "done"       // the done event at the target step
	Crashed    Outcome = "crashed"    // exit code other than 0, or a signal
	Early      Outcome = "early exit" // exit code 0 without the done event: not success
	NotFinite  Outcome = "not finite" // NaN or infinite loss or gradient norm
	DoNotRetry Outcome = "do not restart"
	// Interrupted is an attempt that a person stopped: it neither counts as
	// fruitless nor clears the count.
	Interrupted Outcome = "interrupted"
)

// exitDoNotRestart is the exit code by which a trainer asks not to be restarted
// (as NVIDIA's resiliency extension has it).
const exitDoNotRestart = 93

// Attempt is one start of the trainer.
type Attempt struct {
	Number     int     `json:"number"`
	Task       string  `json:"task"`
	Events     string  `json:"events"` // its own file: a fenced attempt cannot write into the next one's
	Resume     string  `json:"resume,omitempty"`
	ResumeStep int     `json:"resume_step"`
	Phase      Phase   `json:"phase"`
	Outcome    Outcome `json:"outcome,omitempty"`
	Reason     string  `json:"reason,omitempty"`
	ExitCode   int     `json:"exit_code"` // -1 = ended by a signal
	Signal     string  `json:"signal,omitempty"`
	LastStep   int     `json:"last_step"`       // highest step event
	Saved      int     `json:"checkpoint_step"` // newest good checkpoint when it ended; -1 = none
	// Skipped are newer checkpoints that were passed over when it began, with the reasons.
	Skipped []checkpoint.Skipped `json:"skipped,omitempty"`
	// Unknown counts how often the executor could not see the task.
	Unknown int `json:"unknown,omitempty"`
	// Log is the end of what the trainer printed, unless it was done.
	Log string `json:"log,omitempty"`
}

// Snapshot is what Decide sees.
type Snapshot struct {
	Target   int       // the recipe's last step
	Limit    int       // attempts in a row without progress that end the run
	Attempts []Attempt // since the last verdict; all have ended
	// Newest checkpoint that verifies and is finite; Step −1 = none.
	NewestStep int
	NewestDir  string
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
	Resume string // for Start: the checkpoint to go on from, or empty
	Step   int
	Reason string
}

// Decide says what to do when no attempt is running.
func Decide(s Snapshot) Decision {
	if len(s.Attempts) == 0 {
		if s.NewestStep >= 0 {
			return Decision{Action: Start, Resume: s.NewestDir, Step: s.NewestStep, Reason: fmt.Sprintf("a checkpoint of step %d is there", s.NewestStep)}
		}
		return Decision{Action: Start, Reason: "first attempt"}
	}
	last := s.Attempts[len(s.Attempts)-1]
	if last.Outcome == Done && s.NewestStep == s.Target {
		return Decision{Action: Finish, Resume: s.NewestDir, Step: s.NewestStep, Reason: fmt.Sprintf("step %d reached, its checkpoint verifies", s.Target)}
	}
	switch last.Outcome {
	case NotFinite:
		return Decision{Action: Stop, Step: max(s.NewestStep, 0), Reason: fmt.Sprintf("attempt %d: %s; lower the learning rate or look at the data near step %d", last.Number, last.Reason, last.LastStep)}
	case DoNotRetry:
		return Decision{Action: Stop, Step: max(s.NewestStep, 0), Reason: fmt.Sprintf("attempt %d ended with exit code %d: the trainer asks not to be restarted", last.Number, exitDoNotRestart)}
	}
	if n := fruitless(s.Attempts); n >= max(s.Limit, 1) {
		reason := fmt.Sprintf("%d attempts in a row ended without a newer checkpoint than that of step %d; the last one: %s", n, max(s.NewestStep, 0), last.Reason)
		if said := lastLine(last.Log); said != "" {
			reason += fmt.Sprintf("; it said: %s", said)
		}
		return Decision{Action: Stop, Step: max(s.NewestStep, 0), Reason: reason}
	}
	step := max(s.NewestStep, 0)
	return Decision{Action: Start, Resume: s.NewestDir, Step: step, Reason: fmt.Sprintf("attempt %d %s (%s): go on from step %d", last.Number, last.Outcome, last.Reason, step)}
}

// lastLine is what a trainer said last: most often why it ended.
func lastLine(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// fruitless counts the newest attempts that left no newer checkpoint than they began with.
func fruitless(attempts []Attempt) int {
	n := 0
	for _, a := range slices.Backward(attempts) {
		if a.Outcome == Interrupted {
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
	status      executor.Status
	target      int
	done        bool // the done event was seen, at step
	step        int
	notFinite   string // what was not finite, if anything
	interrupted bool   // we ended it because a person stopped us
}

// judge names the outcome of an attempt. That a trainer which did all its work
// ends badly afterwards is noted, and costs nothing.
func judge(e ending) (Outcome, string) {
	how := manner(e.status)
	switch {
	case e.notFinite != "":
		return NotFinite, e.notFinite
	case e.done && e.step == e.target:
		return Done, fmt.Sprintf("done at step %d, %s", e.step, how)
	case e.interrupted:
		return Interrupted, "interrupted"
	case e.status.ExitCode == exitDoNotRestart:
		return DoNotRetry, how
	case e.done:
		return Early, fmt.Sprintf("said done at step %d of %d, %s", e.step, e.target, how)
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
