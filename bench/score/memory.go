package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// meter notes the largest resident memory of the process after each step, as
// Linux counts it.
type meter struct {
	weights int64
	lines   []string
}

// newMeter starts counting anew.
func newMeter(weights int64) *meter {
	m := &meter{weights: weights}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		m.lines = append(m.lines, fmt.Sprintf("| peak resident memory counts from the start | %v |", err))
	}
	return m
}

func (m *meter) note(step string) {
	peak, err := peakBytes()
	if err != nil {
		m.lines = append(m.lines, fmt.Sprintf("| peak resident memory, up to %s | not known: %v |", step, err))
		return
	}
	m.lines = append(m.lines, fmt.Sprintf("| peak resident memory, up to %s | %.0f MB, %.2f × the weights |",
		step, float64(peak)/1e6, float64(peak)/float64(m.weights)))
}

func (m *meter) print(w io.Writer) {
	for _, l := range m.lines {
		fmt.Fprintln(w, l)
	}
}

func peakBytes() (int64, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("no VmHWM in /proc/self/status")
}
