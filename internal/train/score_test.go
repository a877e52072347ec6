package train

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
)

// scoreboard scores detection against what was injected.
type scoreboard struct {
	mu             sync.Mutex
	rows           []string
	found, missed  int
	false_         int
	kills, hangs   []float64
	scenariosCount int
}

// score compares the attempts that ended badly with the faults that ask for it.
func (b *scoreboard) score(sc scenario, r *Report, truths []truth) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.scenariosCount++
	bad := 0
	latency := ""
	for _, a := range r.Attempts {
		if a.Outcome == Done {
			continue
		}
		bad++
		// The newest fault before it was noticed is taken for its cause.
		seen := math.NaN()
		for _, x := range truths {
			if d := a.NoticedAt.Sub(x.At).Seconds(); d > -0.05 {
				seen = max(d, 0)
			}
		}
		if sc.name == "the clock jumps" || math.IsNaN(seen) {
			continue
		}
		latency = fmt.Sprintf("%.3f s", seen)
		switch a.Outcome {
		case Hung:
			b.hangs = append(b.hangs, seen)
		case Crashed, Early, RankLost:
			b.kills = append(b.kills, seen)
		}
	}
	want := 0
	for _, e := range sc.ends {
		if e != Done {
			want++
		}
	}
	if sc.stops != "" {
		want = bad // the loop is bounded by its own check
	}
	b.found += min(bad, want)
	b.missed += max(want-bad, 0)
	b.false_ += max(bad-want, 0)
	var ends []string
	for _, a := range r.Attempts {
		ends = append(ends, string(a.Outcome))
	}
	b.rows = append(b.rows, fmt.Sprintf("%3d  %-42s %8d  %8d  %-9s %s", sc.row, sc.name, len(truths), bad, latency, strings.Join(ends, ", ")))
}

func (b *scoreboard) table() string {
	slices.Sort(b.rows)
	var s strings.Builder
	fmt.Fprintf(&s, "%3s  %-42s %8s  %8s  %-9s %s\n", "row", "fault", "injected", "noticed", "seen in", "attempts")
	for _, row := range b.rows {
		s.WriteString(row + "\n")
	}
	worst := func(x []float64) float64 {
		if len(x) == 0 {
			return 0
		}
		return slices.Max(x)
	}
	fmt.Fprintf(&s, "precision %d/%d, recall %d/%d; an end is seen in %.3f s at most (%d), a hang in %.3f s (%d)\n",
		b.found, b.found+b.false_, b.found, b.found+b.missed, worst(b.kills), len(b.kills), worst(b.hangs), len(b.hangs))
	return s.String()
}
