package train

import (
	"fmt"
	"math"

	"tarbert/internal/store"
)

// resumption compares what a resumed attempt does with what was recorded: the
// steps that it does again, or, where it has none, the losses just before.
type resumption struct {
	step     int
	dir      string
	recorded map[int]recorded // steps after it, as earlier attempts did them
	before   []float64        // losses up to it, of the same recipe stage, newest last
	until    int              // first step that is asked to be done otherwise: not compared

	compared, matched int
	after             []float64
	dataDiffers       bool
	settled           bool
}

type recorded struct {
	loss float64
	data string
}

const (
	compareSteps = 5 // steps done again that are compared
	lookBack     = 32
	resumeShare  = 0.02 // of the loss
)

// expect reads what earlier attempts reported around the checkpoint that an
// attempt resumes. The last report of a step counts.
func (s *supervisor) expect(a *Attempt) error {
	s.resumed = resumption{step: a.ResumeStep, dir: a.Resume, until: s.state.Adjust.first(), recorded: map[int]recorded{}, settled: a.Resume == ""}
	if a.Resume == "" {
		return nil
	}
	before := map[int]float64{}
	for i := range s.state.Attempts {
		b := &s.state.Attempts[i]
		if b.Number >= a.Number || b.LastStep <= a.ResumeStep-lookBack {
			continue
		}
		t := &tail{path: b.Events}
		for {
			events, err := t.read()
			if err != nil {
				return fmt.Errorf("%w: %w", store.ErrEnvironment, err)
			}
			if len(events) == 0 {
				break
			}
			for _, e := range events {
				loss, ok := e.values["loss"]
				if e.Event != "step" || !ok || b.From > 0 && e.Step >= b.From {
					continue
				}
				if e.Step > a.ResumeStep && e.Step <= a.ResumeStep+compareSteps {
					s.resumed.recorded[e.Step] = recorded{loss, e.Data}
				}
				if e.Step <= a.ResumeStep && e.Step > a.ResumeStep-lookBack && s.stageOf(e.Step) == s.stageOf(a.ResumeStep+1) {
					before[e.Step] = loss
				}
			}
		}
	}
	for step := a.ResumeStep - lookBack + 1; step <= a.ResumeStep; step++ {
		if loss, ok := before[step]; ok {
			s.resumed.before = append(s.resumed.before, loss)
		}
	}
	return nil
}

// noise is how much the loss changes from one step to the next.
func noise(losses []float64) float64 {
	var d []float64
	for i := 1; i < len(losses); i++ {
		d = append(d, math.Abs(losses[i]-losses[i-1]))
	}
	if len(d) == 0 {
		return 0
	}
	return median(d)
}

// take compares a step. proven: the checkpoint goes on as it was. bad: it does not.
func (r *resumption) take(e event, stage string) (proven bool, bad, data string) {
	loss, ok := e.values["loss"]
	if r.settled || !ok || e.Step <= r.step {
		return false, "", ""
	}
	if e.Step >= r.until {
		r.settled = true
		return false, "", ""
	}
	want, known := r.recorded[e.Step]
	if !known {
		return r.withoutOverlap(e.Step, loss, stage)
	}
	if want.data != "" && e.Data != "" && want.data != e.Data && !r.dataDiffers {
		r.dataDiffers = true
		data = fmt.Sprintf("step %d was done with other data than before (%s, then %s): the sampler's place was lost", e.Step, want.data, e.Data)
	}
	r.compared++
	allowed := resumeShare*math.Abs(want.loss) + 3*noise(r.before)
	if math.Abs(loss-want.loss) <= allowed {
		r.matched++
		if (loss == want.loss || r.matched >= 3) && !r.dataDiffers {
			r.settled = true
			return true, "", data
		}
		return false, "", data
	}
	if r.compared-r.matched < 2 && r.compared < len(r.recorded) {
		return false, "", data
	}
	r.settled = true
	return false, fmt.Sprintf("resumed from step %d, step %d has loss %.5g where it had %.5g: more than the %.3g that noise explains", r.step, e.Step, loss, want.loss, allowed), data
}

// withoutOverlap compares the first three losses with those just before. Only
// the loss of supervised training says something by its height.
func (r *resumption) withoutOverlap(step int, loss float64, stage string) (proven bool, bad, data string) {
	if r.compared > 0 { // the overlap is over
		r.settled = true
		return r.matched == r.compared && !r.dataDiffers, "", ""
	}
	if stage != "sft" || len(r.before) < 8 {
		r.settled = true
		return false, "", ""
	}
	if r.after = append(r.after, loss); len(r.after) < 3 {
		return false, "", ""
	}
	r.settled = true
	mid := median(r.before)
	bound := mid + max(spikeSigmas*spread(r.before, mid), spikeShare*math.Abs(mid))
	if got := median(r.after); got > bound {
		return false, fmt.Sprintf("resumed from step %d, the first losses are about %.5g; before it they were about %.5g, at most %.5g is noise", r.step, got, mid, bound), ""
	}
	return true, "", ""
}
