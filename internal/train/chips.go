package train

import (
	"context"
	"fmt"
	"sync"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/executor"
)

// sampled is one look at the chips; an error is unknown, not failed.
type sampled struct {
	samples []device.Sample
	err     error
}

const sampleLimit = 9 * time.Second // a vendor's tool that hangs is given up after this

// sampler looks at the attempt's chips every now and then. A look that hangs is
// left behind, and no second one begins before it is over.
func (s *supervisor) sampler(ctx context.Context, helpers *sync.WaitGroup, a *Attempt, out chan<- sampled) {
	p := s.pool()
	if p.Sample == nil || len(a.Devices) == 0 {
		return
	}
	chips := append([]string(nil), a.Devices...)
	helpers.Go(func() {
		tick := time.NewTicker(s.SampleEvery)
		defer tick.Stop()
		var busy chan sampled // a look that is not over
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if busy == nil {
				busy = make(chan sampled, 1)
				go func(done chan<- sampled) { // not waited for: a hung tool must not hold the run
					limited, cancel := context.WithTimeout(ctx, sampleLimit)
					defer cancel()
					samples, err := p.Sample(limited, chips)
					done <- sampled{samples, err}
				}(busy)
			}
			x := sampled{err: fmt.Errorf("the vendor's tool has not answered")}
			wait := time.NewTimer(min(s.SampleEvery, sampleLimit))
			select {
			case x = <-busy:
				busy = nil
			case <-wait.C:
			case <-ctx.Done():
			}
			wait.Stop()
			select {
			case out <- x:
			case <-ctx.Done():
				return
			}
		}
	})
}

// takeSampled takes in a look at the chips. Unknown restarts nothing; unhealthy
// in two looks one after the other is a fault.
func (s *supervisor) takeSampled(a *Attempt, x sampled) {
	if x.err != nil {
		s.state.alarm(a.Number, a.LastStep, alarmDevice, fmt.Sprintf("the chips could not be looked at (unknown, not failed): %v", x.err))
		return
	}
	for _, d := range x.samples {
		if d.Health != device.Unhealthy {
			delete(s.ill, d.ID)
			if d.Health == device.Unknown {
				s.state.alarm(a.Number, a.LastStep, alarmDevice, fmt.Sprintf("health of chip %s is unknown: %s", d.ID, d.Detail))
			}
			continue
		}
		if s.ill == nil {
			s.ill = map[string]int{}
		}
		if s.ill[d.ID]++; s.ill[d.ID] == 2 {
			s.fault(a, ChipFault{Chip: d.ID, Code: "unhealthy", Text: d.Detail, At: s.now(), Remedy: device.RemedyIsolate})
		}
	}
}

func (s *supervisor) remedy(code string) device.Remedy {
	if f := s.pool().Remedy; f != nil {
		return f(code)
	}
	return device.RemedyUnknown
}

// fault takes in a chip's fault: it may cordon chips and end the attempt.
func (s *supervisor) fault(a *Attempt, f ChipFault) {
	if len(s.state.Faults) < mostFaults {
		f.At = f.At.Round(0)
		s.state.Faults = append(s.state.Faults, f)
	}
	s.state.alarm(a.Number, a.LastStep, alarmDevice, fmt.Sprintf("chip %s reports %s %s", f.Chip, f.Code, f.Text))
	b := blame(s.state.Faults)
	for i, id := range b.Cordon {
		if _, already := s.state.Cordoned[id]; !already {
			s.state.Cordoned[id] = b.Why[i]
		}
	}
	switch f.Remedy {
	case device.RemedyProcess:
		// It may be the first of several: what comes within 30 s on others is the
		// program's. The trainer dies of it by itself, or goes on.
		if b.Program != "" {
			s.trouble(a, ChipFailed, 0, b.Program)
		}
	case device.RemedyReset, device.RemedyIsolate, device.RemedyNode:
		s.trouble(a, ChipFailed, 0, fmt.Sprintf("chip %s: %s %s asks for %s", f.Chip, f.Code, f.Text, f.Remedy))
	}
}

// inside is a look into the running task.
type inside struct {
	processes []executor.Process
	err       error
}

// insideEvery bounds how late a rank's death is seen whose peers wait for it.
const insideEvery = 400 * time.Millisecond

// inspector looks every now and then whether the announced ranks' processes are
// there, where the executor can: at those alone once all were seen, at all of the
// task's when one is missing.
func (s *supervisor) inspector(ctx context.Context, helpers *sync.WaitGroup, a *Attempt, out chan<- inside) {
	look, able := s.pool().Executor.(executor.Inspector)
	if !able {
		return
	}
	check, _ := s.pool().Executor.(executor.Checker)
	task := a.Task
	helpers.Go(func() {
		tick := time.NewTicker(insideEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			case <-s.announced: // at once, to see the rank alive
				tick.Reset(insideEvery)
			}
			ranks := s.ranked.Load()
			if ranks == nil { // nobody announced a rank: there is nothing to look for
				tick.Stop()
				continue
			}
			if check != nil && len(*ranks) > 0 {
				if alive, err := check.Alive(ctx, *ranks); err == nil && len(alive) == len(*ranks) {
					continue
				}
			}
			processes, err := look.Processes(ctx, task)
			select {
			case out <- inside{processes, err}:
			case <-ctx.Done():
				return
			}
		}
	})
}

// mostBlind is how many looks are made for a rank that is never seen: it may have
// its pid in another namespace.
const mostBlind = 25

// lookFor says what the inspector is to look for: nil is nothing, an empty list
// is all there is, since some rank was not seen alive yet.
func (s *supervisor) lookFor(a *Attempt) {
	var seen []executor.Process
	blind := false
	for _, r := range a.Ranks {
		if r.Start == 0 {
			blind = true
			continue
		}
		seen = append(seen, executor.Process{Pid: r.Pid, Start: r.Start})
	}
	switch {
	case blind && s.blind < mostBlind:
		s.blind++
		s.ranked.Store(&[]executor.Process{})
	case len(seen) > 0:
		s.ranked.Store(&seen)
	default:
		s.ranked.Store(nil)
	}
}

// takeInside compares the announced ranks with the processes that are there. A
// rank that is gone in two looks, while no step came, is lost.
func (s *supervisor) takeInside(a *Attempt, x inside) {
	if x.err != nil || len(x.processes) == 0 {
		return // unknown, or the end of the task is about to be told
	}
	defer s.lookFor(a)
	alive := map[int]uint64{}
	for _, p := range x.processes {
		alive[p.Pid] = p.Start
	}
	for n, r := range a.Ranks {
		start, there := alive[r.Pid]
		switch {
		case there && r.Start == 0:
			a.Ranks[n] = rank{Pid: r.Pid, Start: start}
			continue
		case there && r.Start == start, r.Start == 0:
			continue // r.Start 0: it was never seen alive, so its death was not seen either
		}
		if s.missing == nil {
			s.missing = map[int]int{}
		}
		if s.missing[n] == 0 || s.missing[n] != a.LastStep+1 {
			s.missing[n] = a.LastStep + 1
			continue
		}
		if !s.state.Reading.Done {
			s.trouble(a, RankLost, 0, fmt.Sprintf("rank %d (process %d) is gone, and no step came since", n, r.Pid))
		}
	}
}
