package plan

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

// world is a simulated campaign. How it is made shares nothing with the
// forecaster: no trace, no exponential gaps, no Decide.
type world struct {
	kind     string
	planned  float64 // days of the plan
	work     float64 // days of steps at the planned speed
	progress []float64
	trouble  []int
	unseen   []float64
	begins   int // day on which the trouble begins
	wrongAt  int // day from which what is trained is worthless; -1 never
	checks   int // a parity check every so many days
	queue    float64
	move     float64
	rate     float64 // of the other side
	ranges   [3]Range
	misses   float64 // share of broken states that a parity check does not see
	wolf     float64 // share of good ones that it takes for broken
}

type kindShare struct {
	name  string
	share float64
}

var kinds = []kindShare{
	{"good", 0.34}, {"good, noisy", 0.08}, {"lemon nodes until evicted", 0.08}, {"heavy-tailed outages", 0.10}, {"bad first week", 0.08},
	{"steps drift slower", 0.07}, {"hopeless stability", 0.08}, {"slow links", 0.07}, {"silent divergence", 0.05}, {"parity broken", 0.05},
}

func drawKind(rng *rand.Rand, kinds []kindShare) string {
	u := rng.Float64()
	for _, k := range kinds {
		if u -= k.share; u < 0 {
			return k.name
		}
	}
	return kinds[0].name
}

func pareto(rng *rand.Rand, least, alpha float64) float64 {
	return least * math.Pow(1-rng.Float64(), -1/alpha)
}

func between(rng *rand.Rand, low, high float64) float64 { return low + (high-low)*rng.Float64() }

// makeWorld draws a campaign of 30 to 100 days.
func makeWorld(rng *rand.Rand) *world {
	const days = 2000
	w := &world{kind: drawKind(rng, kinds), work: between(rng, 30, 90), wrongAt: -1, checks: 1 + rng.IntN(2), misses: 0.05, wolf: 0.005}
	w.planned = w.work / 0.85
	base, noise, gap := between(rng, 0.82, 0.95), 0.04, between(rng, 0.4, 3)
	onset := between(rng, 3, 0.5*w.work)
	settle := between(rng, 4, 8)
	bad := between(rng, 0.05, 0.35)
	switch w.kind {
	case "good, noisy":
		noise = 0.15
	case "slow links":
		base = between(rng, 0.2, 0.45)
	case "silent divergence", "parity broken":
		w.wrongAt = int(onset)
		if w.kind == "parity broken" {
			w.wrongAt = 0
		}
	}
	switch w.kind {
	case "silent divergence":
		w.begins = int(onset)
	case "steps drift slower":
		w.begins = int(onset / 2)
	}
	outage := 0.0
	next := pareto(rng, 0.3, 1.4) * gap
	for day := range days {
		at := float64(day)
		p := base
		trouble := 0
		for next < at+1 { // interruptions with Pareto gaps
			trouble++
			next += pareto(rng, 0.3, 1.4) * gap
			p -= between(rng, 0, 0.04)
			if w.kind == "heavy-tailed outages" && rng.Float64() < 0.08 {
				outage += min(12, pareto(rng, 0.3, 1.1))
			}
		}
		switch {
		case w.kind == "lemon nodes until evicted" && at < settle-1, w.kind == "bad first week" && at < settle-2:
			p = between(rng, 0.15, 0.65)
			trouble += 2 + rng.IntN(4)
		case w.kind == "bad first week" && at < settle:
			p = between(rng, 0.5, 0.8)
			trouble++
		case w.kind == "steps drift slower":
			p *= max(0.25, 1-0.012*max(0, at-onset/2))
		case w.kind == "hopeless stability":
			p = bad * between(rng, 0.3, 1.7)
			trouble += 3 + rng.IntN(6)
		}
		if outage > 0 {
			lost := min(1, outage)
			outage -= lost
			p *= 1 - lost
		}
		p += noise * rng.NormFloat64()
		unseen := 0.0
		if rng.Float64() < 0.06 {
			unseen = between(rng, 0.1, 1) // the day's reports are missing
		}
		w.progress, w.trouble, w.unseen = append(w.progress, min(1.05, max(0, p))), append(w.trouble, trouble), append(w.unseen, unseen)
	}
	w.queue, w.move, w.rate = min(14, pareto(rng, 1.5, 2)), between(rng, 1, 4), between(rng, 0.75, 0.95)
	w.ranges = [3]Range{{Low: 1.5, High: 6}, {Low: 1, High: 4}, {Low: 0.7, High: 0.95}}
	return w
}

// kept is the good work done by the end of a day.
func (w *world) kept(day int) float64 {
	sum := 0.0
	for i := 0; i < day && i < len(w.progress); i++ {
		if w.wrongAt < 0 || i < w.wrongAt {
			sum += w.progress[i]
		}
	}
	return sum
}

// stay is when the attempt seems finished, and whether it really is.
func (w *world) stay() (day int, good bool) {
	sum := 0.0
	for i, p := range w.progress {
		if sum += p; sum >= w.work {
			return i + 1, w.wrongAt < 0 || i < w.wrongAt
		}
	}
	return len(w.progress), false
}

// preferred is how many days the preferred pool is worth to the owner of these campaigns: a cost of leaving it.
const preferred = 5

// finish is the day of a usable model if the campaign leaves on a day; a
// negative day never leaves, but goes over when the final evaluation fails.
func (w *world) finish(day int) float64 {
	end, good := w.stay()
	if day < 0 || day >= end {
		if good {
			return float64(end)
		}
		day = end
	}
	return float64(day) + w.queue + w.move + (w.work-w.kept(day))/w.rate + preferred
}

// oracle knows all and leaves on the best day.
func (w *world) oracle() (day int, finish float64) {
	day, finish = -1, w.finish(-1)
	for d := range int(w.planned) + 30 {
		if f := w.finish(d); f < finish-1e-9 {
			day, finish = d, f
		}
	}
	return day, finish
}

// informed knows this pool's whole future but of the other side only what the
// spec said: no rule can do better than this one, which leaves on the best day by
// the middle of the ranges.
func (w *world) informed() int {
	guess := *w
	guess.queue, guess.move, guess.rate = w.ranges[0].Mid(), w.ranges[1].Mid(), w.ranges[2].Mid()
	day, _ := guess.oracle()
	return day
}

// situation is what is known on the morning of a day.
func (w *world) situation(day int, windows []Window, parity Checks, leaning int) Situation {
	done := 0.0
	for i := range day {
		done += w.progress[i]
	}
	days := func(r Range) Range { return Range{Low: 24 * r.Low, High: 24 * r.High} }
	return Situation{
		At: Hours(24 * day), Planned: Hours(24 * w.planned), Remaining: Hours(24 * max(0, w.work-done)), Windows: windows, Parity: parity,
		Expected: Range{Low: 0.75, High: 0.95}, Price: 100, Leaning: leaning, PreAuthorized: true, Preference: preferred * 24,
		Other:  Side{Queue: days(w.ranges[0]), Migration: days(w.ranges[1]), Rate: w.ranges[2], Price: 100},
		Budget: Budget{Breaches: 2},
	}
}

// leaves plays a rule day by day and gives the day it leaves, -1 if never.
func (w *world) leaves(rng *rand.Rand, rule func(Situation) (leave bool, leaning int)) int {
	var windows []Window
	var parity Checks
	leaning := 0
	end, _ := w.stay()
	for day := 1; day < end; day++ {
		i := day - 1
		seen := 24 * (1 - w.unseen[i])
		windows = append(windows, Window{Wall: 24, Unknown: Hours(24 - seen), Progress: Hours(w.progress[i] * seen), Interruptions: w.trouble[i]})
		if day%w.checks == 0 {
			wrong := w.wrongAt >= 0 && i >= w.wrongAt
			switch u := rng.Float64(); {
			case u < 0.03:
				parity.Unknown++
			case wrong && u < 1-w.misses || !wrong && u < 0.03+w.wolf:
				parity.Done++
				parity.Breaches++
			default:
				parity.Done++
				parity.Breaches = 0
			}
		}
		var leave bool
		if leave, leaning = rule(w.situation(day, windows, parity, leaning)); leave {
			return day
		}
	}
	return -1
}

// baselines are what teams do, and the parts of the decision alone.
func baselines(t *testing.T) map[string]func(Situation) (bool, int) {
	return map[string]func(Situation) (bool, int){
		"1 Decide": func(s Situation) (bool, int) {
			d, err := Decide(s)
			if err != nil {
				t.Fatal(err)
			}
			return d.Action == Switch, d.Leaning
		},
		"2 never switch": func(Situation) (bool, int) { return false, 0 },
		"3 first failure": func(s Situation) (bool, int) {
			return s.Windows[len(s.Windows)-1].Interruptions > 0, 0
		},
		"4 fixed calendar (14 days, under 70 % of the plan)": func(s Situation) (bool, int) {
			sum := Hours(0)
			for _, w := range s.Windows {
				sum += w.Progress
			}
			return s.At == 14*24 && float64(sum) < 0.7*0.85*14*24, 0
		},
		"5 ETTR threshold (3 days under 0.5)": func(s Situation) (bool, int) {
			if len(s.Windows) < 3 {
				return false, 0
			}
			sum := Hours(0)
			for _, w := range s.Windows[len(s.Windows)-3:] {
				sum += w.Progress
			}
			return sum < 36, 0
		},
		"6 sequential test alone (interruptions)": func(s Situation) (bool, int) {
			const good, bad = 1.5, 4.0 // a day
			llr := 0.0
			for _, w := range s.Windows {
				llr = max(0, llr+float64(w.Interruptions)*math.Log(bad/good)-(bad-good))
			}
			return llr > math.Log(100), 0
		},
	}
}

// score is a rule's record.
type score struct {
	campaigns, right, wrong, due, missed, close int
	days                                        []float64 // of due switches, in shares of the plan
	lost, best                                  float64
}

const tie = 0.05 // of the plan: closer than this, neither side was wrong

func (s *score) add(w *world, day int) {
	oracle, best := w.oracle()
	stay := w.finish(-1)
	got := w.finish(day)
	s.campaigns++
	s.lost += got - best
	s.best += best
	switch {
	case stay <= best+tie*w.planned && w.finish(1) <= stay+tie*w.planned:
		s.close++
	case oracle < 0 || stay <= best+tie*w.planned:
		s.right++
		if day >= 0 {
			s.wrong++
		}
	default:
		s.due++
		if day < 0 {
			s.missed++
		} else {
			s.days = append(s.days, max(0, float64(day-max(oracle, w.begins)))/w.planned)
		}
	}
}

func (s *score) row() string {
	slices.Sort(s.days)
	median := "–"
	if len(s.days) > 0 {
		median = fmt.Sprintf("%.1f %%", 100*s.days[len(s.days)/2])
	}
	return fmt.Sprintf("%.1f %%\t%.1f %%\t%s\t%.1f %%", 100*float64(s.wrong)/float64(max(1, s.right)), 100*float64(s.missed)/float64(max(1, s.due)), median, 100*s.lost/s.best)
}

// trial is campaigns of one generator.
type trial struct {
	name      string
	make      func(*rand.Rand) *world
	kinds     []kindShare
	campaigns int
	seed      uint64
	missed    float64 // the most that may be missed
}

func playCampaigns(t *testing.T, tr trial) (map[string]*score, map[string]*score, string) {
	t.Helper()
	rules := baselines(t)
	scores, byKind := map[string]*score{}, map[string]*score{}
	for i := range tr.campaigns {
		w := tr.make(rand.New(rand.NewPCG(tr.seed, uint64(i))))
		const bound = "7 knows this pool's future, not the other side"
		if scores[bound] == nil {
			scores[bound] = &score{}
		}
		scores[bound].add(w, w.informed())
		for name, rule := range rules {
			if scores[name] == nil {
				scores[name] = &score{}
			}
			day := w.leaves(rand.New(rand.NewPCG(tr.seed+1, uint64(i))), rule)
			scores[name].add(w, day)
			if strings.HasPrefix(name, "1") {
				if byKind[w.kind] == nil {
					byKind[w.kind] = &score{}
				}
				byKind[w.kind].add(w, day)
			}
		}
	}
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	one := scores["1 Decide"]
	fmt.Fprintf(&b, "%s, seed %d, %d campaigns: staying right in %d, switching right in %d, within %.0f %% of the plan of each other in %d\n", tr.name, tr.seed, one.campaigns, one.right, one.due, 100*tie, one.close)
	fmt.Fprintln(tw, "rule\twrong switches\tmissed switches\tmedian delay after trouble began, of plan\tregret over an oracle")
	for _, name := range slices.Sorted(mapKeys(scores)) {
		fmt.Fprintf(tw, "%s\t%s\n", name[2:], scores[name].row())
	}
	fmt.Fprintln(tw, "\nDecide by kind of campaign\twrong\tmissed\tmedian delay\tregret")
	for _, k := range tr.kinds {
		if s := byKind[k.name]; s != nil {
			fmt.Fprintf(tw, "%s (%d: %d stay, %d switch)\t%s\n", k.name, s.campaigns, s.right, s.due, s.row())
		}
	}
	_ = tw.Flush()
	return scores, byKind, b.String()
}

func mapKeys(m map[string]*score) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func judgeDecide(t *testing.T, tr trial) {
	t.Helper()
	scores, _, table := playCampaigns(t, tr)
	t.Log("\n" + table)
	s := scores["1 Decide"]
	wrong, missed, regret := float64(s.wrong)/float64(s.right), float64(s.missed)/float64(s.due), s.lost/s.best
	if wrong > 0.02+0.1/math.Sqrt(float64(tr.campaigns)) || missed > tr.missed || regret > 0.05 {
		t.Errorf("wrong %.3f (at most 0.02), missed %.3f (%.3f), regret %.3f (0.05)", wrong, missed, tr.missed, regret)
	}
	if m := s.days[len(s.days)/2]; m > 0.1 {
		t.Errorf("median delay of due switches %.3f of the plan", m)
	}
	for name, other := range scores {
		if name[0] != '1' && name[0] != '7' && other.lost < s.lost {
			t.Errorf("%s has less regret", name)
		}
	}
}

func TestDecisions(t *testing.T) { judgeDecide(t, trial{"generator", makeWorld, kinds, 1500, 1, 0.05}) }

func TestSoakDecisions(t *testing.T) {
	if !soak() {
		t.Skip("set TARBERT_SOAK=1")
	}
	judgeDecide(t, trial{"generator", makeWorld, kinds, 10000, 99, 0.05})
}
