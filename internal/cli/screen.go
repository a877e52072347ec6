package cli

import (
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"

	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/release"
)

// screen shows a release as it happens: a line per stage with a bar, and under
// the running one the series worth watching. On a terminal the block is redrawn
// in place; elsewhere a plain line is printed when a stage starts, every few
// seconds while it runs, and when it ends.
type screen struct {
	mu    sync.Mutex
	out   io.Writer
	tty   bool
	width int
	now   func() time.Time

	rows   []*row
	drawn  int       // lines on the terminal that the next draw replaces
	last   time.Time // of the last draw or plain line
	closed bool
}

type row struct {
	stage   string
	state   release.State
	verdict gate.Verdict
	line    string // what it ended with
	update  progress.Update
	series  map[string][]float64
	order   []string
	started time.Time
	took    time.Duration
}

const (
	redrawEvery = 100 * time.Millisecond
	plainEvery  = 5 * time.Second
	barWidth    = 18
	sparkWidth  = 44
	keepPoints  = 4096
)

func newScreen(out io.Writer, tty bool, width int, now func() time.Time, stages []string) *screen {
	s := &screen{out: out, tty: tty, width: max(width, 60), now: now}
	for _, name := range stages {
		s.rows = append(s.rows, &row{stage: name, series: map[string][]float64{}})
	}
	return s
}

func (s *screen) row(stage string) *row {
	for _, r := range s.rows {
		if r.stage == stage {
			return r
		}
	}
	r := &row{stage: stage, series: map[string][]float64{}}
	s.rows = append(s.rows, r)
	return r
}

// event takes a stage's change of state.
func (s *screen) event(e release.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.row(e.Stage)
	r.state, r.verdict, r.line, r.took = e.State, e.Gate.Verdict, e.Line, e.Took
	if e.State == release.Running {
		r.started = s.now()
	}
	if s.tty {
		s.draw()
		return
	}
	if e.State == release.Running {
		fmt.Fprintf(s.out, "%-9s …\n", e.Stage)
	} else {
		fmt.Fprintln(s.out, s.finished(r))
	}
	s.last = s.now()
}

// progress takes a sign of life from the running stage.
func (s *screen) progress(u progress.Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.row(u.Stage)
	r.update = u
	for name, v := range u.Values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		if _, seen := r.series[name]; !seen {
			r.order = append(r.order, name)
		}
		if len(r.series[name]) < keepPoints {
			r.series[name] = append(r.series[name], v)
		}
	}
	since := s.now().Sub(s.last)
	switch {
	case s.tty && since >= redrawEvery:
		s.draw()
	case !s.tty && since >= plainEvery:
		fmt.Fprintf(s.out, "%-9s %s\n", r.stage, s.activity(r))
		s.last = s.now()
	}
}

// close leaves the final picture on the terminal.
func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tty && !s.closed {
		s.draw()
	}
	s.closed = true
}

func (s *screen) draw() {
	if s.closed {
		return
	}
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	lines := 0
	put := func(text string) {
		b.WriteString("\x1b[2K" + clip(text, s.width-1) + "\n")
		lines++
	}
	for _, r := range s.rows {
		switch r.state {
		case release.Running:
			put(fmt.Sprintf("  %-9s %s %s", r.stage, bar(r.update.Done, r.update.Total), s.activity(r)))
			for _, name := range r.order {
				if v := r.series[name]; len(v) > 1 {
					put(fmt.Sprintf("  %9s %s %s", "", spark(v, sparkWidth), fmt.Sprintf("%s %.4g", name, v[len(v)-1])))
				}
			}
		case "":
			put(fmt.Sprintf("  %-9s %s", r.stage, strings.Repeat("·", barWidth)))
		default:
			put(s.finished(r))
		}
	}
	if lines < s.drawn { // the block shrank: wipe what is left of it
		b.WriteString(strings.Repeat("\x1b[2K\n", s.drawn-lines))
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn-lines)
	}
	s.drawn, s.last = lines, s.now()
	io.WriteString(s.out, b.String()) //nolint — a terminal that is gone is no reason to stop a release
}

func (s *screen) finished(r *row) string {
	word := string(r.verdict)
	switch r.state {
	case release.Reused:
		word = "reused"
	case release.Errored:
		word = "error"
	}
	return fmt.Sprintf("  %-9s %-12s %7s  %s", r.stage, mark(r.state, r.verdict)+" "+word, seconds(r.took), r.line)
}

func (s *screen) activity(r *row) string {
	u := r.update
	var parts []string
	if u.Total > 0 {
		parts = append(parts, fmt.Sprintf("%.0f/%.0f %s", u.Done, u.Total, u.Unit))
	}
	if u.Note != "" {
		parts = append(parts, u.Note)
	}
	if !r.started.IsZero() {
		parts = append(parts, seconds(s.now().Sub(r.started)))
	}
	return strings.Join(parts, " · ")
}

func mark(state release.State, v gate.Verdict) string {
	switch {
	case state == release.Errored:
		return "!"
	case v == gate.Pass:
		return "✓"
	case v == gate.Fail:
		return "✗"
	}
	return "?"
}

func seconds(d time.Duration) string {
	if d >= time.Minute {
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}

func bar(done, total float64) string {
	if total <= 0 {
		return strings.Repeat("░", barWidth)
	}
	full := int(math.Round(barWidth * min(max(done/total, 0), 1)))
	return strings.Repeat("█", full) + strings.Repeat("░", barWidth-full)
}

// spark draws a series in width characters, the newest at the right: each
// character is the mean of its share of the points.
func spark(v []float64, width int) string {
	const levels = "▁▂▃▄▅▆▇█"
	glyphs := []rune(levels)
	width = min(width, len(v))
	means := make([]float64, width)
	lo, hi := math.Inf(1), math.Inf(-1)
	for i := range means {
		from, to := i*len(v)/width, (i+1)*len(v)/width
		sum := 0.0
		for _, x := range v[from:to] {
			sum += x
		}
		means[i] = sum / float64(to-from)
		lo, hi = min(lo, means[i]), max(hi, means[i])
	}
	var b strings.Builder
	for _, m := range means {
		level := 0
		if hi > lo {
			level = int((m - lo) / (hi - lo) * float64(len(glyphs)-1))
		}
		b.WriteRune(glyphs[level])
	}
	return b.String()
}

// clip cuts text to a width in characters, so that a long line never wraps and
// breaks the redrawing.
func clip(text string, width int) string {
	r := []rune(text)
	if len(r) <= width {
		return text
	}
	return string(r[:width-1]) + "…"
}
