package train

import (
	"context"
	"fmt"
	"time"
)

// logEvery is how often a log is read where the trainer does not speak the contract.
const logEvery = time.Second

// drain takes in the events written since the last call. A file that cannot be
// read is unknown: it is noted, and tried again.
func (s *supervisor) drain(ctx context.Context, a *Attempt) {
	took := false
	for {
		events, err := s.tail.read()
		if err != nil {
			a.Unknown++
			s.state.alarm(a.Number, a.LastStep, alarmUnseen, err.Error())
			s.watchdog.unseen(s.now().Sub(s.watchdog.at))
			s.watchdog.at = s.now()
			break
		}
		if len(events) == 0 {
			break
		}
		took = true
		now := s.now()
		for _, e := range events {
			s.take(a, e, now)
		}
		s.state.Reading.Offset, s.state.Reading.Contract = s.tail.offset, true
	}
	if !s.state.Reading.Contract {
		took = s.drainLog(ctx, a) || took
	}
	s.state.Clock.tick(s.now())
	if took && s.now().Sub(s.saved) >= saveEvery {
		if err := s.save(a.Phase); err != nil { // it announces no act: the run goes on, and so does its supervisor
			s.state.alarm(a.Number, a.LastStep, alarmDisk, fmt.Sprintf("the supervisor's state could not be written, and is tried again: %v", err))
		}
	}
}

// drainLog is what is left where a trainer is silent on the contract: its log.
func (s *supervisor) drainLog(ctx context.Context, a *Attempt) (took bool) {
	now := s.now()
	if now.Sub(s.logged) < max(logEvery, s.Poll) && a.Phase == Watching || s.log == nil {
		return false
	}
	s.logged = now
	s.log.rewind()
	if err := s.pool().Executor.Logs(ctx, a.Task, s.log); err != nil {
		return false
	}
	for _, line := range s.log.lines {
		e, ok := logLine(s.patterns, line, a.LastStep)
		if !ok {
			continue
		}
		took = true
		if !a.Degraded {
			a.Degraded = true
			s.state.alarm(a.Number, e.Step, alarmDegraded, "the trainer does not speak the contract: it is supervised by what it prints, and its checkpoints are its own")
		}
		s.take(a, e, now)
	}
	s.log.lines = nil
	s.state.Reading.Log = s.log.taken
	return took
}

// take takes in one event.
func (s *supervisor) take(a *Attempt, e event, now time.Time) {
	clock := s.state.Clock
	switch e.Event {
	case "section":
		clock.enter(classOf(e.Name, a.Number), now)
		if s.watchdog.section == classCheckpoint && e.Name != classCheckpoint {
			s.state.SaveSum += now.Sub(s.watchdog.since).Seconds()
			s.state.Saves++
		}
		s.watchdog.enter(e.Name, now)
	case "checkpoint":
		clock.mark(e.Step, now)
		s.state.markStep(e.Step, now)
		if e.Dir != "" && e.Step <= a.LastStep {
			s.verify(Kept{Step: e.Step, Dir: e.Dir})
		}
	case "done":
		s.state.Reading.Done, s.state.Reading.DoneStep = true, e.Step
	case "rank":
		if a.Ranks == nil {
			a.Ranks = map[int]rank{}
		}
		a.Ranks[e.Rank] = rank{Pid: e.Pid}
		s.blind = 0
		s.lookFor(a)
		select {
		case s.announced <- struct{}{}:
		default:
		}
	case "fault":
		s.fault(a, ChipFault{Chip: e.Chip, Code: e.Code, Text: e.Text, At: now, Remedy: s.remedy(e.Code)})
	case "recovery":
		if a.Recovered == nil {
			a.Recovered = map[Rung]int{}
		}
		a.Recovered[e.Rung]++
		clock.enter(classRecovery, now)
		s.watchdog.unseen(now.Sub(s.watchdog.since)) // it is at work: the unit begins anew
	case "mismatch":
		if v, ok := e.values["mean_abs_dlogp"]; ok {
			s.found(a, e.Step, mismatch(e.Step, v))
			s.parity(e.Step, v <= mismatchMost)
		}
	case "step":
		s.takeStep(a, e, now)
	}
}

func (s *supervisor) takeStep(a *Attempt, e event, now time.Time) {
	clock := s.state.Clock
	if e.Step > a.LastStep && e.Step > a.ResumeStep+1 && clock.Current == classStep {
		s.state.StepSum += now.Sub(s.watchdog.since).Seconds()
		s.state.Steps++
	}
	s.watchdog.advance(e.Step, now)
	a.LastStep = max(a.LastStep, e.Step)
	a.Reported++
	// A trainer that names no sections is in its steps once it has done one.
	switch clock.Current {
	case classOf("setup", a.Number), classRecovery, classQueue:
		clock.enter(classStep, now)
	}
	s.watch1(a, e, true)
	s.report(a, e)
}

// watch1 gives a step to the monitors. With act, what they find has consequences.
func (s *supervisor) watch1(a *Attempt, e event, act bool) {
	if e.bad != "" {
		if act {
			s.trouble(a, NotFinite, e.Step, fmt.Sprintf("%s is not finite at step %d", e.bad, e.Step))
		}
		return
	}
	if e.Adjusted == "skip" {
		return
	}
	if e.Step == s.Recipe.Train.SFT.Steps+1 {
		s.monitor.reset()
	}
	var found []finding
	if loss, ok := e.values["loss"]; ok && s.stageOf(e.Step) == "sft" {
		found = s.monitor.loss(e.Step, loss)
	}
	if norm, ok := e.values["grad_norm"]; ok {
		found = append(found, s.monitor.norm(e.Step, norm)...)
	}
	found = append(found, s.ranks.take(e.Step, e.rankSeconds())...)
	proven, bad, data := s.resumed.take(e, s.stageOf(e.Step))
	if proven {
		s.state.Proven = &Kept{Step: s.resumed.step, Dir: s.resumed.dir}
	}
	if !act {
		return
	}
	s.found(a, e.Step, found)
	if data != "" {
		s.state.alarm(a.Number, e.Step, alarmData, data)
	}
	if bad != "" {
		s.parity(a.ResumeStep+1, false)
		s.state.alarm(a.Number, e.Step, alarmResume, bad)
		s.trouble(a, BadResume, a.ResumeStep+1, bad)
	}
}

// parity counts the breaches in a row, and remembers where they began.
func (s *supervisor) parity(step int, holds bool) {
	switch {
	case holds:
		s.state.Breaches, s.state.BreachFrom = 0, 0
	case s.state.Breaches == 0:
		s.state.Breaches, s.state.BreachFrom = 1, step
	default:
		s.state.Breaches++
		s.state.BreachFrom = min(s.state.BreachFrom, step)
	}
}

// found raises alarms, and acts on what is wide.
func (s *supervisor) found(a *Attempt, step int, all []finding) {
	for _, f := range all {
		s.state.alarm(a.Number, step, f.kind, f.text)
		if f.act {
			s.trouble(a, Spiked, f.from, f.text)
		}
	}
}
