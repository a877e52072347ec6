package plan

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"tarbert/internal/spec"
)

// Replay says how a past attempt is played again: what was reported as dates,
// and what nobody reported as ranges and weighed patterns.
type Replay struct {
	Pool   string `json:"pool"`  // that was attempted
	Began  Period `json:"began"` // the attempt, as reported
	Left   Period `json:"left"`  // when it was given up in fact; neither = it never was
	Checks Range  `json:"days_between_checks"`
	// Unseen is the share of days of which nothing is known.
	Unseen    float64   `json:"unseen"`
	Histories int       `json:"histories"` // default 2,000
	Patterns  []Pattern `json:"patterns"`

	allowed Hours // to bring up
}

// Period is a day somewhere between two.
type Period struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Source string    `json:"source"`
}

// Pattern is one way in which an attempt may go.
type Pattern struct {
	Name   string  `json:"name"`
	Weight float64 `json:"weight"`
	Source string  `json:"source"`
	// BringUp is the days at first, with FirstProgress (0 = no step), Progress then
	// the share of planned speed that is kept, Interruptions a day, Breach the
	// chance that a parity check fails.
	BringUp       Range   `json:"bring_up_days"`
	FirstProgress Range   `json:"first_progress"`
	FirstTrouble  Range   `json:"first_interruptions_per_day"` // in those days; none = as later
	Progress      Range   `json:"progress"`
	Interruptions Range   `json:"interruptions_per_day"`
	Breach        float64 `json:"breach"`
}

func (r *Replay) check(doc *spec.Document, p *Project) {
	if r == nil {
		return
	}
	if r.Histories == 0 {
		r.Histories = 2000
	}
	if !p.HasPool(r.Pool) {
		doc.Wrong("replay.pool", "the name in its inventory file", "replay.pool: no pool is called %q", r.Pool)
	}
	for _, f := range []struct {
		name string
		d    Period
	}{{"began", r.Began}, {"left", r.Left}} {
		if f.d.To.Before(f.d.From) {
			doc.Wrong("replay."+f.name+".to", "", "replay.%s: %s is before %s", f.name, day(f.d.To), day(f.d.From))
		}
	}
	if r.Began.From.IsZero() || !r.Left.To.IsZero() && !r.Left.From.After(r.Began.From) {
		doc.Wrong("replay.began", "add began: {from: …, to: …}, before left", "replay: the attempt began %s and was left %s", day(r.Began.From), day(r.Left.From))
	}
	if err := r.Checks.check("replay.days_between_checks", true); err != nil {
		doc.Wrong("replay.days_between_checks", "", "%v", err)
	}
	if r.Unseen < 0 || r.Unseen >= 1 || r.Histories < 10 || r.Histories > 1_000_000 {
		doc.Wrong("replay", "", "replay: unseen %g (0 to 1), histories %d (10 to 1000000)", r.Unseen, r.Histories)
	}
	if len(r.Patterns) == 0 {
		doc.Wrong("replay", "add `patterns:`", "replay.patterns is missing: how may the attempt have gone?")
	}
	for i, x := range r.Patterns {
		field := fmt.Sprintf("replay.patterns[%d]", i)
		if !(x.Weight > 0) || x.Breach < 0 || x.Breach > 1 || x.Progress.High > 1.5 {
			doc.Wrong(field, "", "%s: weight %g must be positive, breach %g from 0 to 1, progress %g at most 1.5", field, x.Weight, x.Breach, x.Progress.High)
		}
		for _, f := range []struct {
			name string
			r    Range
		}{{"bring_up_days", x.BringUp}, {"first_progress", x.FirstProgress}, {"first_interruptions_per_day", x.FirstTrouble}, {"progress", x.Progress}, {"interruptions_per_day", x.Interruptions}} {
			if err := f.r.check(field+"."+f.name, false); err != nil {
				doc.Wrong(field+"."+f.name, "", "%v", err)
			}
		}
	}
}

// Replayed is what would have been advised, over all histories.
type Replayed struct {
	Plan      string          `json:"plan"`
	Pool      string          `json:"pool"`
	Fallback  string          `json:"fallback"`
	Histories int             `json:"histories"`
	Refused   []string        `json:"refused"` // options of that pool that the plan refuses before anything runs
	Hedge     Advice          `json:"hedge"`
	Switch    Advice          `json:"switch"`
	Stop      Advice          `json:"stop"`
	Saved     [3]float64      `json:"months_saved"` // P10, P50, P90; 0 where no advice came before it was left
	Patterns  []PatternAdvice `json:"patterns"`
	Assumed   []string        `json:"assumed"`
	Terms     Terms           `json:"terms"`
}

// Advice is when an action was first advised.
type Advice struct {
	Share float64      `json:"share"` // of histories in which it was
	Days  [3]float64   `json:"days"`  // after the attempt began, P10, P50, P90 of those
	Dates [3]time.Time `json:"dates"`
}

// PatternAdvice is the same for one pattern.
type PatternAdvice struct {
	Name   string  `json:"name"`
	Share  float64 `json:"share"` // of histories
	Switch Advice  `json:"switch"`
}

// replayed is one history.
type replayed struct {
	pattern       int
	began, left   time.Time
	hedge, change int // day of first advice, -1 = never
	stop          int
}

// PlayAgain plays the attempt: every day of every history is shown to Decide, with the plan's terms.
func (p *Project) PlayAgain(o *Outlook) (*Replayed, error) {
	r := p.Replay
	if r == nil {
		return nil, fmt.Errorf("%s has no replay section", p.File)
	}
	terms, err := o.Terms(p, r.Pool)
	if err != nil {
		return nil, err
	}
	r.allowed = terms.BringUp
	out := &Replayed{Plan: p.Name, Pool: terms.Pool, Fallback: terms.Fallback, Histories: r.Histories, Terms: terms, Assumed: r.assumed(o)}
	for _, c := range o.Choices {
		if c.Pool == r.Pool && c.Rejected != "" {
			out.Refused = append(out.Refused, fmt.Sprintf("%s: %s", c.Recipe, c.Rejected))
		}
	}
	histories := make([]replayed, r.Histories)
	pcg := rand.NewPCG(0, 0)
	rng := rand.New(pcg)
	for h := range histories {
		pcg.Seed(p.Seed, uint64(h))
		if histories[h], err = r.history(terms, rng); err != nil {
			return nil, err
		}
	}
	out.summarize(r, histories)
	return out, nil
}

func (r *Replay) history(t Terms, rng *rand.Rand) (replayed, error) {
	x := replayed{hedge: -1, change: -1, stop: -1, pattern: r.pick(rng.Float64())}
	x.began, x.left = r.Began.at(rng.Float64()), r.Left.at(rng.Float64())
	pattern := r.Patterns[x.pattern]
	progress, bringUp, trouble := pattern.Progress.At(rng.Float64()), pattern.BringUp.At(rng.Float64()), pattern.Interruptions.At(rng.Float64())
	first, early := pattern.FirstProgress.At(rng.Float64()), trouble
	if pattern.FirstTrouble.High > 0 {
		early = pattern.FirstTrouble.At(rng.Float64())
	}
	every := max(1, int(math.Round(r.Checks.At(rng.Float64()))))
	days := int(t.Planned.Days()) * 2
	if !x.left.IsZero() {
		days = int(hoursBetween(x.began, x.left).Days())
	}
	s := Situation{
		Planned: t.Planned, Remaining: Hours(float64(t.Planned) * t.Expected.Mid()), Expected: t.Expected, Price: t.Price, Other: t.Other,
		Preference: t.Preference, DayWorth: t.DayWorth, Budget: t.Budget, PreAuthorized: t.PreAuthorized,
	}
	var windows []Window
	for d := 1; d <= days && s.Remaining > 0; d++ {
		rate, stops := progress, trouble
		if float64(d) <= bringUp {
			rate, stops = first, early
		}
		w := Window{Wall: 24, Interruptions: poisson(stops, rng), Progress: Hours(24 * max(0, rate*(1+0.25*rng.NormFloat64())))}
		if rng.Float64() < r.Unseen {
			w.Unknown, w.Progress, w.Interruptions = 24, 0, 0
		}
		s.At, s.Remaining, s.Spent = Hours(24*d), max(0, s.Remaining-w.Progress), s.Spent+24*s.Price
		windows = append(windows, w)
		s.Windows = afterBringUp(windows, t.BringUp)
		if d%every == 0 && float64(d) > bringUp {
			s.Parity.Done++
			if s.Parity.Breaches++; rng.Float64() >= pattern.Breach {
				s.Parity.Breaches = 0
			}
		}
		decision, err := Decide(s)
		if err != nil {
			return x, err
		}
		s.Leaning = decision.Leaning
		switch {
		case decision.Action == Hedge && x.hedge < 0:
			x.hedge = d
		case decision.Action == Stop:
			x.stop = d
			return x, nil
		case decision.Action == Switch:
			x.change = d
			return x, nil
		}
	}
	return x, nil
}

func (r *Replay) pick(u float64) int {
	sum := 0.0
	for _, x := range r.Patterns {
		sum += x.Weight
	}
	for i, x := range r.Patterns {
		if u -= x.Weight / sum; u < 0 {
			return i
		}
	}
	return len(r.Patterns) - 1
}

func (d Period) at(u float64) time.Time {
	if d.From.IsZero() {
		return time.Time{}
	}
	return d.From.Add(time.Duration(u * float64(d.To.Sub(d.From)))).Truncate(24 * time.Hour)
}

func poisson(mean float64, rng *rand.Rand) int {
	n, product := 0, rng.Float64()
	for limit := math.Exp(-mean); product > limit && n < 1000; n++ {
		product *= rng.Float64()
	}
	return n
}

func (r *Replayed) summarize(spec *Replay, histories []replayed) {
	pick := func(day func(replayed) int, keep func(replayed) bool) Advice {
		var a Advice
		var days []float64
		var dates []time.Time
		n := 0.0
		for _, h := range histories {
			if !keep(h) {
				continue
			}
			n++
			if d := day(h); d >= 0 {
				days = append(days, float64(d))
				dates = append(dates, h.began.AddDate(0, 0, d))
			}
		}
		a.Share = float64(len(days)) / max(1, n)
		a.Days, a.Dates = threeNumbers(days), threeOf(dates, 0)
		return a
	}
	all := func(replayed) bool { return true }
	r.Hedge = pick(func(h replayed) int { return h.hedge }, all)
	r.Switch = pick(func(h replayed) int { return h.change }, all)
	r.Stop = pick(func(h replayed) int { return h.stop }, all)
	for i, x := range spec.Patterns {
		n := 0.0
		for _, h := range histories {
			if h.pattern == i {
				n++
			}
		}
		r.Patterns = append(r.Patterns, PatternAdvice{
			Name: x.Name, Share: n / float64(len(histories)),
			Switch: pick(func(h replayed) int { return h.change }, func(h replayed) bool { return h.pattern == i }),
		})
	}
	var saved []float64
	for _, h := range histories {
		if h.left.IsZero() {
			continue
		}
		months := 0.0
		if h.change >= 0 {
			months = max(0, h.left.Sub(h.began.AddDate(0, 0, h.change)).Hours()/24/30.44)
		}
		saved = append(saved, months)
	}
	r.Saved = threeNumbers(saved)
}

// threeNumbers is P10, P50 and P90.
func threeNumbers(x []float64) (three [3]float64) {
	if len(x) == 0 {
		return three
	}
	x = slices.Sorted(slices.Values(x))
	for k, q := range []float64{0.1, 0.5, 0.9} {
		three[k] = x[int(q*float64(len(x)-1))]
	}
	return three
}

// assumed lists every range that nobody reported.
func (r *Replay) assumed(o *Outlook) (out []string) {
	say := func(what, value, source string) {
		if source == "" {
			source = "assumed"
		}
		out = append(out, fmt.Sprintf("%s: %s (%s)", what, value, source))
	}
	say("the attempt began", day(r.Began.From)+" to "+day(r.Began.To), r.Began.Source)
	if !r.Left.From.IsZero() {
		say("it was given up", day(r.Left.From)+" to "+day(r.Left.To), r.Left.Source)
	}
	say("days that bringing up may take", trim3(r.allowed.Days()), "agreed before the attempt; assumed")
	say("days between parity checks", r.Checks.String(), r.Checks.Source)
	for _, x := range r.Patterns {
		say(fmt.Sprintf("pattern %q, weight %g", x.Name, x.Weight),
			fmt.Sprintf("%s days at %s of planned speed, then at %s, %s interruptions a day, a check fails with %.0f %%", x.BringUp, x.FirstProgress, x.Progress, x.Interruptions, 100*x.Breach), x.Source)
	}
	if here := o.On(r.Pool); here != nil {
		for _, u := range here.Unknown {
			out = append(out, here.Pool+": "+u)
		}
	}
	return out
}

// Text is the replay for people.
func (r *Replayed) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, played again: %s histories of an attempt on %s, with %s beside it\n\n", r.Plan, grouped(int64(r.Histories)), r.Pool, or(r.Fallback, "nothing"))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "advice\tin\tday after the start (P10, P50, P90)\tdate (P10, P50, P90)")
	for _, x := range r.Refused {
		fmt.Fprintf(w, "refuse %s\t100 %%\t0, before anything runs\tthe day of the plan\n", strings.SplitN(x, ":", 2)[0])
	}
	for _, a := range []struct {
		name string
		a    Advice
	}{{"hedge: prepare the other pool", r.Hedge}, {"switch", r.Switch}, {"stop", r.Stop}} {
		fmt.Fprintf(w, "%s\t%s\n", a.name, a.a.cells())
	}
	_ = w.Flush() // into a strings.Builder
	for _, x := range r.Refused {
		fmt.Fprintf(&b, "  refused  %s\n", x)
	}
	if r.Saved[2] > 0 {
		fmt.Fprintf(&b, "\nmonths saved: P10 %.1f, P50 %.1f, P90 %.1f, from the advised switch to when the attempt was given up in fact\n", r.Saved[0], r.Saved[1], r.Saved[2])
	} else {
		fmt.Fprintf(&b, "\nstays in %.1f %% of histories\n", 100*(1-r.Switch.Share-r.Stop.Share))
	}
	b.WriteByte('\n')
	fmt.Fprintln(w, "pattern\tof histories\tswitch in\tday after the start (P10, P50, P90)\tdate (P10, P50, P90)")
	for _, x := range r.Patterns {
		fmt.Fprintf(w, "%s\t%.0f %%\t%s\n", x.Name, 100*x.Share, x.Switch.cells())
	}
	_ = w.Flush()
	b.WriteString("\nassumed, since nobody has published it:\n")
	for _, a := range r.Assumed {
		fmt.Fprintf(&b, "  %s\n", a)
	}
	return trimLines(b.String())
}

func (a Advice) cells() string {
	if a.Share == 0 {
		return "0 %\t–\t–"
	}
	return fmt.Sprintf("%.1f %%\t%.0f, %.0f, %.0f\t%s, %s, %s", 100*a.Share, a.Days[0], a.Days[1], a.Days[2], day(a.Dates[0]), day(a.Dates[1]), day(a.Dates[2]))
}
