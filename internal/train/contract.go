package train

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"regexp"
)

// event is one line of the trainer contract.
type event struct {
	Event string `json:"event"`
	Step  int    `json:"step"`
	Name  string `json:"name"` // of a section
	Dir   string `json:"dir"`  // of a checkpoint
	// Optional: what a step was made of, and who took how long for it.
	Data     string          `json:"data"`
	Adjusted string          `json:"adjusted"`
	Seconds  json.RawMessage `json:"rank_seconds"`
	// Optional: processes, chips, the trainer's own recovery.
	Rank int    `json:"rank"`
	Pid  int    `json:"pid"`
	Chip string `json:"chip"`
	Code string `json:"code"`
	Text string `json:"text"`
	Rung Rung   `json:"rung"`
	// Of a replayed batch.
	Batch  int             `json:"batch"`
	Layers json.RawMessage `json:"layers"`
	// values are all other numbers of the line, by name: "loss", "reward", …
	values map[string]float64
	// bad names the first number that is NaN or infinite.
	bad string
}

// toFloat is NaN for what is not a finite number: null, "NaN", 1e999.
func toFloat(v any) float64 {
	n, ok := v.(json.Number)
	if !ok {
		return math.NaN()
	}
	x, err := n.Float64()
	if err != nil || math.IsInf(x, 0) {
		return math.NaN()
	}
	return x
}

// rankSeconds is each rank's own time, or nil: what cannot be read is not there.
func (e event) rankSeconds() []float64 {
	var seconds []float64
	if len(e.Seconds) == 0 || json.Unmarshal(e.Seconds, &seconds) != nil {
		return nil
	}
	return seconds
}

// replay is a replayed batch.
func (e event) replay() (Replay, error) {
	r := Replay{Batch: e.Batch, Loss: math.NaN(), GradNorm: math.NaN(), Tokens: int(e.values["tokens"])}
	if v, ok := e.values["loss"]; ok {
		r.Loss = v
	}
	if v, ok := e.values["grad_norm"]; ok {
		r.GradNorm = v
	}
	if err := json.Unmarshal(e.Layers, &r.Layers); err != nil {
		return r, fmt.Errorf("replay of batch %d: layers: %w", e.Batch, err)
	}
	return r, nil
}

// Python's json writes these bare words; JSON has no such values.
var bareNaN = regexp.MustCompile(`([:\[,]\s*)(NaN|-?Infinity)\b`)

// parseEvent reads one line.
func parseEvent(line []byte) (event, error) {
	if !json.Valid(line) { // only then: the words may also stand in a text
		line = bareNaN.ReplaceAll(line, []byte(`${1}"$2"`))
	}
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		return event{}, err
	}
	if e.Event == "" {
		return event{}, errors.New("no event name")
	}
	if e.Step < 0 {
		return event{}, fmt.Errorf("step %d", e.Step)
	}
	var all map[string]any
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber() // a number that float64 does not hold is a finding, not a broken line
	if err := dec.Decode(&all); err != nil {
		return event{}, err
	}
	e.values = map[string]float64{}
	for name, v := range all {
		switch name {
		case "event", "step", "name", "dir", "data", "adjusted", "rank", "pid", "chip", "code", "text", "rung":
			continue
		}
		watched := name == "loss" || name == "grad_norm"
		x := toFloat(v)
		switch {
		case !math.IsNaN(x):
			e.values[name] = x
		case watched && e.bad != "loss": // loss is named before the norm
			e.bad = name
		}
	}
	return e, nil
}

// tail reads an events file as it grows: whole lines only, from where it stopped.
type tail struct {
	path      string
	offset    int64 // of the first byte not yet taken in as a whole line
	skipping  bool  // inside a line that is too long
	waiting   int64 // the file's size when it held no whole line more
	malformed int
	firstBad  string // the first line that could not be read, with its reason
}

// longestLine bounds what a trainer can make us hold.
const longestLine = 1 << 20

// read returns the events of lines completed since the last call, at most about
// a MiB of them; with none left, it returns none. A file that is not there yet
// has none. A file that became shorter is read again from its start: every
// event is the same when seen twice.
func (t *tail) read() ([]event, error) {
	if info, err := os.Stat(t.path); err == nil && (info.Size() == t.offset || info.Size() == t.waiting && t.waiting > t.offset) {
		return nil, nil // nothing new, as most of the time
	}
	f, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	} else if info.Size() < t.offset {
		t.reject(nil, fmt.Errorf("the file shrank from %d bytes to %d", t.offset, info.Size()))
		t.offset, t.skipping = 0, false
	}
	var events []event
	for len(events) == 0 {
		b, err := io.ReadAll(io.NewSectionReader(f, t.offset, longestLine))
		if err != nil {
			return nil, fmt.Errorf("read events %s at %d: %w", t.path, t.offset, err)
		}
		end := bytes.LastIndexByte(b, '\n') + 1
		switch {
		case end > 0:
			events = t.lines(b[:end])
			t.offset += int64(end)
		case len(b) == longestLine: // no end in sight: drop it, and what follows of it
			if !t.skipping {
				t.reject(b, errors.New("line longer than 1 MiB"))
			}
			t.skipping = true
			t.offset += int64(len(b))
		default:
			t.waiting = t.offset + int64(len(b))
			return nil, nil
		}
	}
	return events, nil
}

// lines parses whole lines.
func (t *tail) lines(b []byte) []event {
	var events []event
	for line := range bytes.Lines(b) {
		if t.skipping {
			t.skipping = false // the end of the long line
			continue
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		e, err := parseEvent(line)
		if err != nil {
			t.reject(line, err)
			continue
		}
		events = append(events, e)
	}
	return events
}

// torn is how many bytes of an unfinished line are at the end of the file of an
// attempt that has ended.
func (t *tail) torn() int64 {
	info, err := os.Stat(t.path)
	if err != nil {
		return 0
	}
	return max(info.Size()-t.offset, 0)
}

func (t *tail) reject(line []byte, err error) {
	t.malformed++
	if t.firstBad == "" {
		t.firstBad = fmt.Sprintf("%.120q: %v", line, err)
	}
}
