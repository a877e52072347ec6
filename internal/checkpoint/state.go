package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Version is that of state.json and manifest.json.
const Version = 1

// State is state.json: where the run stands, apart from the tensors.
type State struct {
	Version int    `json:"version"` // set by Commit
	Step    int    `json:"step"`    // optimizer steps done, counted through all stages
	Tokens  int64  `json:"tokens"`  // trained on so far
	Stage   string `json:"stage"`   // recipe stage: "sft" or "grpo"
	// Cursor is where in the data the next step begins.
	Cursor Cursor `json:"cursor"`
	// RNG holds the state of each random stream by name, as the stream's own
	// MarshalBinary gives it.
	RNG map[string][]byte `json:"rng,omitempty"`
	// Schedule is what the optimizer's schedule needs beyond the step, by name.
	Schedule map[string]float64 `json:"schedule,omitempty"`
	// Writer says who wrote it on what. It does not name the host.
	Writer Identity `json:"writer"`
	// Extra is the trainer's own.
	Extra json.RawMessage `json:"extra,omitempty"`
}

// Cursor is a position in the data.
type Cursor struct {
	Epoch    int64 `json:"epoch"`
	Position int64 `json:"position"` // examples of the epoch already taken
}

// Identity is a trainer on a kind of chip.
type Identity struct {
	Trainer string `json:"trainer"` // "reference", "pytorch"
	Version string `json:"version,omitempty"`
	Vendor  string `json:"vendor,omitempty"` // "cpu", "nvidia", "ascend"
	Device  string `json:"device,omitempty"` // model name
	DType   string `json:"dtype,omitempty"`  // of the weights: "float32"
	// Layout is how the run was spread, in the trainer's words; the tensors do not depend on it.
	Layout string `json:"layout,omitempty"`
}

const (
	stateName    = "state.json"
	manifestName = "manifest.json"
	// maxJSON bounds what is read of either file.
	maxJSON = 64 << 20
)

// ReadState reads the state of a checkpoint. It does not verify the checkpoint.
func ReadState(dir string) (State, error) {
	var s State
	path := filepath.Join(dir, stateName)
	b, err := readCapped(path)
	if err != nil {
		return State{}, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("%s: %w", path, err)
	}
	if s.Version != Version {
		return State{}, fmt.Errorf("%s: version %d; this program reads version %d", path, s.Version, Version)
	}
	return s, nil
}

func readCapped(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err == nil && len(b) > maxJSON {
		err = errors.New("larger than 64 MiB")
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return b, nil
}

func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}
