package plan

import (
	"math"
	"slices"
)

const (
	priorDays = 0.5 // how many days of observation the plan's expectation is worth
	halfLife  = 4.0 // days after which a day's evidence of the speed counts half
	// A day below standstill of the expectation is an outage: an event that
	// comes seldom and ends, not the pool's speed. Outages are counted over a
	// longer memory, and before any is seen one day in fifty is taken for one.
	standstill     = 0.1
	outageHalfLife = 20.0
	outagePrior    = 0.02
	outageDays     = 4.0
	// The future differs from the past by a twentieth.
	apart = 0.05
	// A fall is believed when it is this many standard errors, over no fewer days.
	certain     = 3.0
	leastSlope  = 10
	slopeWindow = 21.0
	// A step needs this many days on each side and this many standard errors,
	// more than a single place would, since the best of all places is taken.
	leastPart = 3
	surely    = 4.5
)

// seen is what the windows say.
type seen struct {
	hours, mean, deviation float64
	trouble                int
	trend                  float64 // newest third minus oldest third
	unknown                Hours
	recent                 float64 // over the last three days
	interruptions          int
	stepped                bool    // progress changed in one step, beyond doubt
	idle                   float64 // share of days lost to outages
	outage                 float64 // days that the outage under way has lasted
	falls                  float64 // by how much the mean was lowered for a fall beyond doubt
	slope, slopeError      float64 // of progress, per day, over the last three weeks
}

// observedDay is one window that counts: somebody saw it, and it is not from before the last switch.
type observedDay struct {
	age, days, progress float64 // days before now; observed days; progress per observed hour
	interruptions       int
}

func (s Situation) days() (days []observedDay, unknown Hours) {
	end := Hours(0)
	for _, w := range s.Windows {
		end += w.Wall
	}
	at := Hours(0)
	for _, w := range s.Windows {
		mid := at + w.Wall/2
		at += w.Wall
		unknown += w.Unknown
		if at <= s.LastSwitch || w.Wall <= w.Unknown {
			continue
		}
		observed := w.Wall - w.Unknown
		days = append(days, observedDay{(end - mid).Days(), observed.Days(), min(1.5, float64(w.Progress/observed)), w.Interruptions})
	}
	return days, unknown
}

func faded(d observedDay, halfLife float64) float64 { return d.days * math.Exp2(-d.age/halfLife) }

// evidence weighs the windows. Progress per wall hour is the speed while the
// pool works, of which old days count less and the plan's expectation stands
// for half a day, times the share of days not lost to outages. From there it
// goes on as it does: an outage under way lasts about as long again, and a
// fall beyond doubt goes on for as long as it was watched.
func (s Situation) evidence(breakEven float64) seen {
	prior := s.Expected.Mid()
	spread := max(0.15, (s.Expected.High-s.Expected.Low)/2.56)
	days, unknown := s.days()
	e := seen{unknown: unknown}
	stands := func(d observedDay) bool { return d.progress < standstill*prior }
	sinceStep := lastStep(days, standstill*prior)
	e.stepped = !math.IsInf(sinceStep, 1)
	works := func(d observedDay) bool { return !stands(d) && d.age < sinceStep }
	weight, sum := priorDays, priorDays*prior
	idle, all := outagePrior*outageDays, outageDays
	var recent, recentHours float64
	for _, d := range days {
		e.hours += 24 * d.days
		e.interruptions += d.interruptions
		e.trouble += d.interruptions
		if d.progress < max(0.6*prior, breakEven) {
			e.trouble++
		}
		if d.age < 3 {
			recent, recentHours = recent+d.progress*d.days, recentHours+d.days
		}
		all += faded(d, outageHalfLife)
		if stands(d) {
			idle += faded(d, outageHalfLife) * (1 - d.progress/prior)
		}
		if works(d) {
			weight, sum = weight+faded(d, halfLife), sum+faded(d, halfLife)*d.progress
		}
	}
	level := sum / weight
	e.recent = recent / max(1.0/24, recentHours)
	e.idle = idle / all
	squares := priorDays * (spread*spread + (prior-level)*(prior-level))
	for _, d := range days {
		if works(d) {
			squares += faded(d, halfLife) * (d.progress - level) * (d.progress - level)
		}
	}
	for _, d := range slices.Backward(days) {
		if !stands(d) {
			break
		}
		e.outage += d.days
	}
	e.mean = level * (1 - e.idle)
	// Outages last some days each: so few are seen that their share is hardly known.
	outages := e.idle * (1 - e.idle) / (all / 3)
	e.deviation = math.Sqrt((squares/weight/(weight+0.5))*(1-e.idle)*(1-e.idle) + level*level*outages + apart*apart)
	e.trend = trend(days)
	e.ahead(s, days)
	return e
}

// ahead lowers the mean for what is under way.
func (e *seen) ahead(s Situation, days []observedDay) {
	var newest float64
	if e.slope, e.slopeError, newest = slope(days, standstill*s.Expected.Mid()); e.slope < -certain*e.slopeError && newest < 0.9*s.Expected.Mid() {
		watched := 0.0
		for _, d := range days {
			watched = max(watched, d.age)
		}
		from := newest * (1 - e.idle)
		rate := overTime(s.Remaining.Days(), from, e.slope*(1-e.idle), watched)
		e.falls = max(0, e.mean-rate)
		e.mean = min(e.mean, rate)
	}
	if rest := s.Remaining.Days(); e.outage > 0 && rest > 0 {
		e.mean = rest / (rest/max(0.02, e.mean) + e.outage)
	}
	e.mean = max(0.02, e.mean)
}

// overTime is the mean progress of work that begins at a rate which changes by
// slope a day for so many days and then stays, never under a tenth of the beginning.
func overTime(work, rate, slope, days float64) float64 {
	least := rate / 10
	left, t := work, 0.0
	for left > 0 && t < days && rate > least {
		left -= rate
		rate = max(least, rate+slope)
		t++
	}
	if left > 0 {
		t += left / rate
	} else {
		t += left / max(least, rate) // the last day was not needed whole
	}
	return work / max(t, 1e-9)
}

// trend is the newest third of the days minus the oldest.
func trend(days []observedDay) float64 {
	if len(days) == 0 {
		return 0
	}
	oldest := days[0].age
	var first, newest, firstN, newestN float64
	for _, d := range days {
		if d.age*3 > 2*oldest {
			first, firstN = first+d.progress, firstN+1
		} else if d.age*3 < oldest {
			newest, newestN = newest+d.progress, newestN+1
		}
	}
	if firstN == 0 || newestN == 0 {
		return 0
	}
	return newest/newestN - first/firstN
}

// slope is how progress changes by the day over the last three weeks, with its
// standard error, and where the fitted line ends; infinite error with less than
// ten days. A fall in one step is no slope: it is over, and the speed after it
// is what counts. A fall that levels off is as steep as its newer half.
func slope(days []observedDay, stands float64) (slope, deviation, newest float64) {
	x, y := recent(days, stands)
	n := len(x)
	if n < leastSlope {
		return 0, math.Inf(1), 0
	}
	all := fitLine(x, y)
	newer := fitLine(x[n/2:], y[n/2:])
	if _, step := bestStep(y); step <= all.rest || newer.slope > -newer.deviation {
		return 0, math.Inf(1), 0
	}
	return max(all.slope, newer.slope), all.deviation, all.intercept
}

// bestStep is where a series falls into two level parts, and the sum of squares about both.
func bestStep(y []float64) (at int, rest float64) {
	rest = math.Inf(1)
	for k := leastPart; k <= len(y)-leastPart; k++ {
		if r := spread(y[:k]) + spread(y[k:]); r < rest {
			at, rest = k, r
		}
	}
	return at, rest
}

// lastStep is how many days ago progress changed for good in one step, beyond
// doubt and better described so than by a line; infinite if it did not. What was
// before an upgrade or an eviction says nothing about what comes.
func lastStep(days []observedDay, stands float64) float64 {
	x, y := recent(days, stands)
	k, rest := bestStep(y)
	if k == 0 || fitLine(x, y).rest < rest {
		return math.Inf(1)
	}
	n, m := float64(k), float64(len(y)-k)
	noise := math.Sqrt((rest/(n+m-1) + 0.02*0.02) * (1/n + 1/m))
	if math.Abs(mean(y[k:])-mean(y[:k])) < surely*noise {
		return math.Inf(1)
	}
	return -x[k] + 0.5
}

func mean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// recent is when, in days from now, and how fast the pool worked over the last
// three weeks. A standstill is an event, not a slow decline, and is left out.
func recent(days []observedDay, stands float64) (at, progress []float64) {
	for _, d := range days {
		if d.age <= slopeWindow && d.progress >= stands {
			at, progress = append(at, -d.age), append(progress, d.progress)
		}
	}
	return at, progress
}

// line is a least-squares fit; rest is its sum of squares.
type line struct{ slope, deviation, intercept, rest float64 }

func fitLine(xs, ys []float64) line {
	var x, y, xx, xy float64
	n := float64(len(xs))
	for i := range xs {
		x, y, xx, xy = x+xs[i], y+ys[i], xx+xs[i]*xs[i], xy+xs[i]*ys[i]
	}
	varies := xx - x*x/n
	if n < 3 || varies <= 0 {
		return line{deviation: math.Inf(1)}
	}
	l := line{slope: (xy - x*y/n) / varies}
	l.intercept = y/n - l.slope*x/n
	l.rest = max(0, spread(ys)-l.slope*l.slope*varies)
	l.deviation = math.Sqrt(l.rest/(n-2)/varies) + 1e-9
	return l
}

// spread is the sum of squares about the mean.
func spread(y []float64) float64 {
	m, squares := mean(y), 0.0
	for _, v := range y {
		squares += (v - m) * (v - m)
	}
	return squares
}
