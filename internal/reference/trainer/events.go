package trainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// The lines of the trainer contract (docs/formats.md).
type (
	stepEvent struct {
		Event    string  `json:"event"` // "step"
		Step     int     `json:"step"`  // steps done, this one included
		Stage    string  `json:"stage"`
		Loss     float64 `json:"loss"`
		GradNorm float64 `json:"grad_norm"` // before clipping
		Rate     float64 `json:"lr"`
		Tokens   int     `json:"tokens"`                  // of this step
		Total    int64   `json:"total_tokens"`            // since step 0
		Data     string  `json:"data,omitempty"`          // digest of the batch: the same step has the same data in every attempt
		Adjusted string  `json:"adjusted,omitempty"`      // "lr", where the supervisor asked for a lower rate
		Z        float64 `json:"z_loss,omitempty"`        // part of the loss
		RouterZ  float64 `json:"router_z_loss,omitempty"` // part of the loss
		*meters          // GRPO only; its fields lie beside these
	}
	// badEvent is a step whose loss or gradient is not finite: null. It was not taken.
	badEvent struct {
		Event    string   `json:"event"` // "step"
		Step     int      `json:"step"`
		Loss     *float64 `json:"loss"`
		GradNorm *float64 `json:"grad_norm"`
		Data     string   `json:"data,omitempty"`
	}
	// skipEvent is a step whose update the supervisor asked to leave out.
	skipEvent struct {
		Event    string `json:"event"` // "step"
		Step     int    `json:"step"`
		Stage    string `json:"stage"`
		Tokens   int    `json:"tokens"` // none
		Total    int64  `json:"total_tokens"`
		Adjusted string `json:"adjusted"` // "skip"
	}
	sectionEvent struct {
		Event string `json:"event"` // "section"
		Name  string `json:"name"`  // "setup", "step", "checkpoint", "rollout"
	}
	checkpointEvent struct {
		Event string `json:"event"` // "checkpoint"
		Step  int    `json:"step"`
		Dir   string `json:"dir"`
	}
	mismatchEvent struct {
		Event string  `json:"event"` // "mismatch"
		Step  int     `json:"step"`
		Gap   float64 `json:"mean_abs_dlogp"` // nats
		Most  float64 `json:"max_abs_dlogp"`
		Far   float64 `json:"share_over_0.1"` // of tokens whose |Δ log p| is above 0.1

		*corrections // with importance sampling only
		// Rerouted is the share of (token, layer) pairs that the rollout sent to
		// other experts than the trainer would; with routing replay only.
		Rerouted *float64 `json:"rerouted,omitempty"`
	}
	corrections struct {
		Weight    float64 `json:"weight"`    // mean over tokens
		Truncated float64 `json:"truncated"` // share of tokens at the bound
		Masked    float64 `json:"masked"`    // share of tokens without weight
	}
	doneEvent struct {
		Event string `json:"event"` // "done"
		Step  int    `json:"step"`
	}
)

// meters describe a step's rollouts.
type meters struct {
	Reward  float64 `json:"reward"`  // mean, 0–1
	Thinks  float64 `json:"thinks"`  // share of completions that think before they answer
	Length  float64 `json:"length"`  // mean tokens of a completion
	Entropy float64 `json:"entropy"` // mean over tokens, nats, of the policy at temperature 1
	Kept    float64 `json:"kept"`    // share of groups whose rewards differ
	Cut     float64 `json:"cut"`     // share of completions that ran into max_tokens
}

// events appends JSON lines to the contract's file.
type events struct {
	f       *os.File
	section string
}

// openEvents opens the file for appending. A line that a killed writer left
// unfinished is ended first, so that it spoils itself only.
func openEvents(path string) (*events, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the events file: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	last := []byte{'\n'}
	if err == nil && size > 0 {
		_, err = f.ReadAt(last, size-1)
	}
	if err == nil && last[0] != '\n' {
		_, err = f.Write([]byte{'\n'})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the events file %s: %w", path, err), f.Close())
	}
	return &events{f: f}, nil
}

// write appends one event in one system call.
func (e *events) write(v any) error {
	line, err := json.Marshal(v)
	if err == nil {
		_, err = e.f.Write(append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write the events file: %w", err)
	}
	return nil
}

// enter says which section of the work begins, if it is another one.
func (e *events) enter(name string) error {
	if e.section == name {
		return nil
	}
	e.section = name
	return e.write(sectionEvent{Event: "section", Name: name})
}

func (e *events) close() error { return e.f.Close() }
