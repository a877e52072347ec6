package plan

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
)

// RunModel is what is known of one training run on one pool. Ranges are what is not known.
type RunModel struct {
	Nodes          int   `json:"nodes"`
	DevicesPerNode int   `json:"devices_per_node"`
	Work           Range `json:"work_hours"` // of steps, if nothing happened
	Hazard         Range `json:"hazard"`     // interruptions per million device-hours
	Save           Range `json:"save_seconds"`
	// Interval is hours of steps between saves; 0 = Daly's for the middle of the ranges.
	Interval Hours       `json:"interval"`
	Restart  RestartCost `json:"restart_seconds"`
	Spares   int         `json:"spares"` // nodes; -1 = enough for 99 % of the time, by the trace's repairs
	// RepairFactor multiplies the trace's repair times.
	RepairFactor Range `json:"repair_factor"`
	Drift        Range `json:"drift"` // share by which steps take longer than when they were measured
	// NoConvergence is the chance that the run ends without a usable model.
	NoConvergence Range `json:"no_convergence"`
	Queue         Range `json:"queue_hours"` // before the first step
}

// Check says which field cannot be.
func (m RunModel) Check() error {
	if m.Nodes <= 0 || m.DevicesPerNode <= 0 {
		return fmt.Errorf("run: %d nodes of %d devices: must be positive", m.Nodes, m.DevicesPerNode)
	}
	if m.Interval < 0 || math.IsNaN(float64(m.Interval)) || m.Spares < -1 {
		return fmt.Errorf("run: interval %g h, %d spares: must not be negative", float64(m.Interval), m.Spares)
	}
	var errs []error
	for _, f := range []struct {
		name     string
		r        Range
		positive bool
	}{
		{"work_hours", m.Work, true}, {"hazard", m.Hazard, false}, {"save_seconds", m.Save, true}, {"repair_factor", m.RepairFactor, false},
		{"restart_seconds.detect", m.Restart.Detect, false}, {"restart_seconds.place", m.Restart.Place, false},
		{"restart_seconds.init", m.Restart.Init, false}, {"restart_seconds.load", m.Restart.Load, false},
		{"drift", m.Drift, false}, {"no_convergence", m.NoConvergence, false}, {"queue_hours", m.Queue, false},
	} {
		errs = append(errs, f.r.check("run: "+f.name, f.positive))
	}
	if m.NoConvergence.High > 1 {
		errs = append(errs, fmt.Errorf("run: no_convergence %g is above 1", m.NoConvergence.High))
	}
	return errors.Join(errs...)
}

// Simulation is how many histories, from which seed, on how many threads (0 =
// all). The same seed gives the same forecast with any number of threads.
type Simulation struct {
	Histories int
	Seed      uint64
	Threads   int
}

// RunForecast is the finish of a run, from the day it may start.
type RunForecast struct {
	// Wall is each history's hours to the finish in the order they were drawn;
	// infinite where the run does not converge.
	Wall []Hours `json:"-"`

	P10   Hours   `json:"p10"`
	P50   Hours   `json:"p50"`
	P90   Hours   `json:"p90"`
	Never float64 `json:"never"` // share of histories that do not finish
	// P90Error is the standard error of P90 from ten batches.
	P90Error      Hours       `json:"p90_error"`
	Histories     int         `json:"histories"`
	Interval      Hours       `json:"interval"`
	Spares        int         `json:"spares"`
	ETTR          float64     `json:"ettr"`          // mean
	Interruptions float64     `json:"interruptions"` // mean
	Dominates     []Influence `json:"dominates"`     // of the spread, largest first
}

// Influence is how much of the forecast's spread goes with one unknown.
type Influence struct {
	Name  string  `json:"name"`
	Share float64 `json:"share"` // squared correlation of ranks
}

// limitFactor ends a history: a run that needs this many times its work will be given up.
const limitFactor = 10

// drawn is what one history drew, in the order of drawnNames.
type drawn [6]float64

var drawnNames = [...]string{"speed of the steps", "hazard", "restart cost", "repair time", "drift of the steps", "queue"}

// SimulateRun plays the run through many histories. The hazard's level is drawn
// from its range, the pattern of faults from the trace.
func SimulateRun(m RunModel, t Trace, o Simulation) (*RunForecast, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	if o.Histories <= 0 {
		return nil, fmt.Errorf("simulation: %d histories: must be positive", o.Histories)
	}
	if m.Hazard.High > 0 && len(t.Faults) == 0 {
		return nil, errors.New("simulation: the trace has no faults to draw from")
	}
	m, err := m.settled(t)
	if err != nil {
		return nil, err
	}
	f := &RunForecast{Histories: o.Histories, Interval: m.Interval, Spares: m.Spares, Wall: make([]Hours, o.Histories)}
	outcomes := make([]Outcome, o.Histories)
	draws := make([]drawn, o.Histories)
	threads := o.Threads
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	var wg sync.WaitGroup
	for k := range threads {
		wg.Go(func() {
			pcg := rand.NewPCG(0, 0)
			rng := rand.New(pcg)
			source := newFaultSource(t, rng)
			for i := k; i < o.Histories; i += threads {
				pcg.Seed(o.Seed, uint64(i))
				outcomes[i], draws[i], f.Wall[i] = m.history(source, rng)
			}
		})
	}
	wg.Wait()
	f.summarize(outcomes, draws)
	return f, nil
}

// settled fills the interval and the spares.
func (m RunModel) settled(t Trace) (RunModel, error) {
	hazard := PerMillion(m.Hazard.Mid())
	if m.Interval == 0 {
		save := Seconds(m.Save.Mid()).Hours()
		m.Interval = 24
		if hazard > 0 {
			m.Interval = Daly(save, hazard.MeanTime(m.Nodes*m.DevicesPerNode))
		}
		m.Interval = min(m.Interval, 24) // nobody leaves a day unsaved
	}
	if m.Spares == -1 {
		var repair Hours
		for _, f := range t.Faults {
			repair += (f.End - f.Start) / Hours(len(t.Faults))
		}
		k, err := Spares(m.Nodes, float64(hazard)*float64(m.DevicesPerNode), repair*Hours(m.RepairFactor.Mid()), 0.99)
		if err != nil {
			return m, err
		}
		m.Spares = k
	}
	return m, nil
}

// history plays the run once.
func (m RunModel) history(source *faultSource, rng *rand.Rand) (Outcome, drawn, Hours) {
	var d drawn
	for i := range d {
		d[i] = rng.Float64()
	}
	work := m.Work.At(d[0]) * (1 + m.Drift.At(d[4]))
	ratio := 0.0
	if base := float64(source.t.Hazard(m.DevicesPerNode)); base > 0 {
		ratio = float64(PerMillion(m.Hazard.At(d[1]))) / base
	}
	source.reset(m.Nodes, ratio)
	repair := Hours(m.RepairFactor.At(d[3]))
	next := func() (Interruption, bool) {
		e, ok := source.pull()
		e.Repair *= repair
		return e, ok && ratio > 0
	}
	// A run's restarts are about as slow as one another; each varies by half.
	level := float64(m.Restart.At(d[2]))
	restart := func() Hours { return Hours(level * math.Exp(0.4*rng.NormFloat64()-0.08)) }
	c := Campaign{Work: Hours(work), Interval: m.Interval, Save: Seconds(m.Save.At(rng.Float64())).Hours(), Spares: m.Spares}
	limit := Hours(limitFactor * work)
	out := c.Run(next, restart, limit)
	wall := out.Wall + Hours(m.Queue.At(d[5]))
	if out.Useful < c.Work || rng.Float64() < m.NoConvergence.At(rng.Float64()) {
		wall = Hours(math.Inf(1))
	}
	return out, d, wall
}

func (f *RunForecast) summarize(outcomes []Outcome, draws []drawn) {
	n := float64(len(outcomes))
	for i, o := range outcomes {
		f.ETTR += o.ETTR() / n
		f.Interruptions += float64(o.Interruptions) / n
		if math.IsInf(float64(f.Wall[i]), 1) {
			f.Never += 1 / n
		}
	}
	sorted := slices.Sorted(slices.Values(f.Wall))
	f.P10, f.P50, f.P90 = quantile(sorted, 0.1), quantile(sorted, 0.5), quantile(sorted, 0.9)
	f.P90Error = batchError(f.Wall, 0.9)
	f.Dominates = influences(f.Wall, draws)
}

// quantile of sorted hours.
func quantile(sorted []Hours, q float64) Hours {
	if len(sorted) == 0 {
		return Hours(math.NaN())
	}
	x := q * float64(len(sorted)-1)
	i := int(x)
	if i+1 >= len(sorted) || math.IsInf(float64(sorted[i+1]), 1) {
		return sorted[min(int(math.Round(x)), len(sorted)-1)]
	}
	return sorted[i] + Hours(x-float64(i))*(sorted[i+1]-sorted[i])
}

// batchError is the standard error of a quantile from ten batches; NaN-free: 0
// where it is not finite.
func batchError(wall []Hours, q float64) Hours {
	const batches = 10
	size := len(wall) / batches
	if size < 10 {
		return 0
	}
	var sum, squares float64
	for b := range batches {
		part := slices.Sorted(slices.Values(wall[b*size : (b+1)*size]))
		x := float64(quantile(part, q))
		sum += x / batches
		squares += x * x / batches
	}
	se := math.Sqrt(max(0, squares-sum*sum) / (batches - 1))
	if math.IsNaN(se) || math.IsInf(se, 0) {
		return 0
	}
	return Hours(se)
}

// influences ranks the unknowns by the squared rank correlation with the
// finish; what no draw explains is when the faults happened to come.
func influences(wall []Hours, draws []drawn) []Influence {
	order := make([]int, len(wall))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return compare(wall[a], wall[b]) })
	n := float64(len(wall))
	var out []Influence
	rest := 1.0
	for k, name := range drawnNames {
		var xy, x, xx float64
		for rank, i := range order {
			u := draws[i][k]
			x += u
			xx += u * u
			xy += u * (float64(rank) + 0.5) / n
		}
		variance := (xx/n - x/n*x/n) / 12 // ranks are uniform
		if variance <= 0 {
			continue
		}
		r := (xy/n - x/n*0.5) / math.Sqrt(variance)
		if share := r * r; share > 4/n { // above what chance gives
			out = append(out, Influence{name, share})
			rest -= share
		}
	}
	if rest > 0.01 {
		out = append(out, Influence{"when faults come, and whose", rest})
	}
	slices.SortStableFunc(out, func(a, b Influence) int {
		if a.Share > b.Share {
			return -1
		} else if a.Share < b.Share {
			return 1
		}
		return 0
	})
	return out
}
