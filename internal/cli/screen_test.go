package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/release"
)

func TestClassify(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want int
	}{
		{"bad usage", badUsage("no"), exitUsage},
		{"anything about the input", errors.New("tensor x: shape"), exitUsage},
		{"a full disk", fmt.Errorf("write: %w", syscall.ENOSPC), exitEnvironment},
		{"a port in use", fmt.Errorf("listen: %w", syscall.EADDRINUSE), exitEnvironment},
		{"interrupted", fmt.Errorf("train: %w", context.Canceled), exitEnvironment},
		{"said to be the environment", environment(errors.New("tool")), exitEnvironment},
		{"wrapped", fmt.Errorf("label: %w", badUsage("no")), exitUsage},
		{"a gate", gateSaidNo(), exitGate},
	}
	for _, tt := range tests {
		if got := classify(tt.err); got != tt.want {
			t.Errorf("%s: exit code %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestTableLinesUp(t *testing.T) {
	got := table([][]string{{"α", "b"}, {"long", "c"}, {"", "d"}})
	want := "α     b\nlong  c\n      d\n"
	if got != want {
		t.Errorf("table =\n%q, want\n%q", got, want)
	}
}

func TestSparkShowsTheShape(t *testing.T) {
	tests := []struct {
		v    []float64
		want string
	}{
		{[]float64{0, 1, 2, 3, 4, 5, 6, 7}, "▁▂▃▄▅▆▇█"},
		{[]float64{7, 0}, "█▁"},
		{[]float64{5, 5, 5}, "▁▁▁"},
	}
	for _, tt := range tests {
		if got := spark(tt.v, 8); got != tt.want {
			t.Errorf("spark(%v) = %s, want %s", tt.v, got, tt.want)
		}
	}
	if got := []rune(spark(make([]float64, 1000), 44)); len(got) != 44 {
		t.Errorf("1000 points take %d characters, want 44", len(got))
	}
}

// Elsewhere than on a terminal there are plain lines and no control characters.
func TestScreenWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	s := newScreen(&out, false, 100, func() time.Time { return now }, []string{"label", "train"})
	s.event(release.Event{Stage: "label", State: release.Running})
	s.event(release.Event{Stage: "label", State: release.Ended, Gate: gate.Result{Verdict: gate.Pass}, Line: "3000 items", Took: time.Second})
	s.event(release.Event{Stage: "train", State: release.Running})
	for i := range 100 {
		now = now.Add(100 * time.Millisecond)
		s.progress(progress.Update{Stage: "train", Done: float64(i), Total: 100, Unit: "steps", Note: "loss 0.5"})
	}
	s.close()
	text := out.String()
	if strings.ContainsRune(text, '\x1b') {
		t.Errorf("control characters in\n%q", text)
	}
	for _, want := range []string{"label     …", "✓ pass", "3000 items", "steps · loss 0.5"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "steps"); n < 1 || n > 3 {
		t.Errorf("%d progress lines in ten seconds, want one every five", n)
	}
}

// On a terminal the block is redrawn in place and never wraps.
func TestScreenOnATerminal(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	s := newScreen(&out, true, 80, func() time.Time { return now }, []string{"label", "train"})
	s.event(release.Event{Stage: "train", State: release.Running})
	for i := range 50 {
		now = now.Add(200 * time.Millisecond)
		s.progress(progress.Update{Stage: "train", Done: float64(i), Total: 50, Unit: "steps", Note: strings.Repeat("x", 200), Values: map[string]float64{"loss": float64(50 - i)}})
	}
	s.event(release.Event{Stage: "train", State: release.Ended, Gate: gate.Result{Verdict: gate.Fail}, Line: "loss rose"})
	s.close()
	height := 0
	for _, line := range strings.Split(out.String(), "\n") {
		visible := strings.NewReplacer("\x1b[2K", "", "\x1b[2A", "", "\x1b[3A", "", "\x1b[1A", "").Replace(line)
		if n := len([]rune(visible)); n > 80 {
			t.Fatalf("a line of %d characters on a terminal of 80: %q", n, visible)
		}
		height++
	}
	if !strings.Contains(out.String(), "\x1b[3A") {
		t.Error("the block of two stages and a series was never redrawn in place")
	}
	if !strings.Contains(out.String(), "✗ fail") {
		t.Error("the failed gate is not shown")
	}
}
