package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"tarbert/internal/executor"
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

const stateVersion = 1

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
	// Why the running attempt is being stopped by us, if it is.
	Interrupted bool   `json:"interrupted,omitempty"`
	NotFinite   string `json:"not_finite,omitempty"`
	// Judged is how many attempts a verdict has been given on: a run that was
	// stopped and is asked for again gets a fresh set.
	Judged int `json:"judged"`
	// Decisions are the reasons of every action, oldest first.
	Decisions []string `json:"decisions"`
	// Supervisors is how many processes have worked on the run.
	Supervisors int `json:"supervisors"`
}

// reading is the tail's place and what matters of the lines before it.
type reading struct {
	Offset   int64 `json:"offset"` // bytes of whole lines taken in
	Done     bool  `json:"done"`
	DoneStep int   `json:"done_step"`
}

// loadState reads supervisor.json; a folder without one is a new run.
func loadState(dir string) (*state, error) {
	path := filepath.Join(dir, "supervisor.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &state{Version: stateVersion}, nil
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
	if c := s.Clock; c == nil || c.Classes == nil || c.Attempt == nil || c.Marks == nil {
		return nil, fmt.Errorf("%s: no clock; move the folder away to begin again", path)
	}
	if a := s.running(); a != nil && (s.Task == nil || next[a.Phase] == nil) {
		return nil, fmt.Errorf("%s: attempt %d in phase %q has no task; move the folder away to begin again", path, a.Number, a.Phase)
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
