package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tarbert/internal/executor"
	"tarbert/internal/plan"
	"tarbert/internal/store"
)

// Phase is where an attempt stands. It is written down before the act that it
// announces.
type Phase string

// Phases of an attempt.
const (
	Starting Phase = "starting" // the executor is about to be asked for the task
	Watching Phase = "watching" // the task was started
	Stopping Phase = "stopping" // the task is about to be ended, or has ended: nothing of it may be left
	Ended    Phase = "ended"    // judged
)

// next lists the only moves.
var next = map[Phase][]Phase{
	Starting: {Starting, Watching, Stopping}, // Starting again under another number
	Watching: {Stopping},
	Stopping: {Ended},
}

func (p Phase) mayBecome(q Phase) bool { return slices.Contains(next[p], q) }

const stateVersion = 2

// state is what the supervisor must know after its own death: supervisor.json
// in the stage's directory.
type state struct {
	Version  int       `json:"version"`
	Attempts []Attempt `json:"attempts"`
	Clock    *clock    `json:"clock"`
	// Task is the running attempt's, to the letter: re-attaching means asking for
	// the same task, whatever command this process would give now.
	Task *executor.Task `json:"task,omitempty"`
	// Reading is how far the running attempt's events were taken in; what they
	// said is in the same file, so nothing is counted twice.
	Reading reading `json:"reading"`
	// Trouble is why the running attempt is being stopped by us, if it is.
	Trouble *trouble `json:"trouble,omitempty"`
	// Judged is how many attempts a verdict has been given on: a run that was
	// stopped and is asked for again gets a fresh set.
	Judged int `json:"judged"`
	// Decisions are the reasons of every action, oldest first.
	Decisions []string `json:"decisions"`
	// Supervisors is how many processes have worked on the run.
	Supervisors int `json:"supervisors"`

	Learned  durations         `json:"learned"`           // how long units took, by kind
	Adjust   Adjust            `json:"adjust"`            // what the trainer is asked to do otherwise
	Suspect  map[string]string `json:"suspect,omitempty"` // checkpoint directory to why it is not to be resumed
	Good     *Kept             `json:"last_good,omitempty"`
	Proven   *Kept             `json:"last_proven,omitempty"`
	Alarms   []Alarm           `json:"alarms,omitempty"`
	Faults   []ChipFault       `json:"faults,omitempty"`
	Cordoned map[string]string `json:"cordoned,omitempty"` // chip to why
	Every    int               `json:"every"`              // the checkpoint interval in use

	SaveSum float64 `json:"save_seconds"`
	Saves   int     `json:"saves"`
	StepSum float64 `json:"step_seconds"`
	Steps   int     `json:"steps"`

	OnFallback  bool          `json:"on_fallback"`
	PoolSince   time.Time     `json:"pool_since"`
	PoolAttempt int           `json:"pool_attempt"` // attempts made before the pool was taken into use
	Marks       []plan.Mark   `json:"marks,omitempty"`
	Useful      []usefulMark  `json:"useful,omitempty"`
	Unseen      []plan.Span   `json:"unseen,omitempty"`
	Leaning     int           `json:"leaning"`
	Considered  time.Time     `json:"considered,omitzero"`
	Consider    time.Duration `json:"-"`
	Move        *Move         `json:"move,omitempty"` // under way
	Moves       []Move        `json:"moves,omitempty"`
	Breaches    int           `json:"breaches"`
	BreachFrom  int           `json:"breaches_from,omitempty"` // the step in which they began
}

// Kept is a checkpoint that counts.
type Kept struct {
	Step int    `json:"step"`
	Dir  string `json:"dir"`
}

// trouble is why an attempt is ended by us.
type trouble struct {
	Outcome Outcome       `json:"outcome"`
	Reason  string        `json:"reason"`
	Step    int           `json:"step"`   // where it shows
	From    int           `json:"from"`   // where it began: nothing saved from there on counts; 0 = all counts
	Silent  time.Duration `json:"silent"` // since the last sign of progress
	Noticed time.Time     `json:"noticed"`
}

// reading is the tail's place and what matters of the lines before it.
type reading struct {
	Offset   int64 `json:"offset"` // bytes of whole lines taken in
	Done     bool  `json:"done"`
	DoneStep int   `json:"done_step"`
	Contract bool  `json:"contract"` // a line of the contract was seen
	Log      int64 `json:"log"`      // bytes of the log taken in, where it has to do
}

// loadState reads supervisor.json; a folder without one is a new run.
func loadState(dir string) (*state, error) {
	path := filepath.Join(dir, "supervisor.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &state{Version: stateVersion, Learned: durations{}, Suspect: map[string]string{}, Cordoned: map[string]string{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read supervisor's state: %w", err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w; it is written atomically, so something else changed it: move the folder away to begin again", path, err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("%s: version %d, this program knows %d: move the folder away to begin again", path, s.Version, stateVersion)
	}
	if s.Clock != nil && s.Clock.Kept == nil { // of an older program, which remembered one attempt's: nothing of it can be lost any more
		s.Clock.Done, s.Clock.Kept = newSums(), map[int]sums{}
	}
	if !s.Clock.sound() {
		return nil, fmt.Errorf("%s: no clock; move the folder away to begin again", path)
	}
	if a := s.running(); a != nil && (s.Task == nil || next[a.Phase] == nil) {
		return nil, fmt.Errorf("%s: attempt %d in phase %q has no task; move the folder away to begin again", path, a.Number, a.Phase)
	}
	for _, m := range []*map[string]string{&s.Suspect, &s.Cordoned} {
		if *m == nil {
			*m = map[string]string{}
		}
	}
	if s.Learned == nil {
		s.Learned = durations{}
	}
	return &s, nil
}

func (s *state) save(dir string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	// 0600: the task's environment may hold secrets.
	return store.WriteFile(filepath.Join(dir, "supervisor.json"), append(b, '\n'), 0o600)
}

// running is the attempt that has not ended, or nil.
func (s *state) running() *Attempt {
	if n := len(s.Attempts); n > 0 && s.Attempts[n-1].Phase != Ended {
		return &s.Attempts[n-1]
	}
	return nil
}

const (
	mostAlarms = 200
	mostFaults = 1000
)

// alarm counts a finding. One alarm of a kind is kept for an attempt.
func (s *state) alarm(attempt, step int, kind, text string) {
	for i := range s.Alarms {
		a := &s.Alarms[i]
		if a.Kind == kind && a.Attempt == attempt && (kind != alarmStraggler || a.Text == text) {
			a.Count++
			a.Last = max(a.Last, step)
			return
		}
	}
	if len(s.Alarms) < mostAlarms {
		s.Alarms = append(s.Alarms, Alarm{Kind: kind, Attempt: attempt, Step: step, Last: step, Count: 1, Text: text})
	}
}

// markStep adds a kept step; what an interruption lost is taken out by rewindMarks.
func (s *state) markStep(step int, at time.Time) {
	if n := len(s.Marks); n > 0 && (s.Marks[n-1].Step >= step || at.Before(s.Marks[n-1].At)) {
		return
	}
	s.Marks = append(s.Marks, plan.Mark{At: at.Round(0), Step: step})
	s.Useful = append(s.Useful, usefulMark{At: at.Round(0), Useful: s.Clock.useful()})
	const most = 4000
	if len(s.Marks) > most { // every other one, but the newest
		s.Marks, s.Useful = halve(s.Marks), halve(s.Useful)
	}
}

func halve[T any](all []T) []T {
	var out []T
	for i := len(all) - 1; i >= 0; i -= 2 {
		out = append(out, all[i])
	}
	slices.Reverse(out)
	return out
}

func (s *state) rewindMarks(step int) {
	for n := len(s.Marks); n > 0 && s.Marks[n-1].Step > step; n-- {
		s.Marks = s.Marks[:n-1]
	}
}
