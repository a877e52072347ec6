package train

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"tarbert/internal/checkpoint"
	"tarbert/internal/device"
	"tarbert/internal/executor"
	"tarbert/internal/store"
)

// begin writes down that an attempt will start. attempt starts it, because a
// supervisor that died in between must do so too.
func (s *supervisor) begin(d Decision, skipped []checkpoint.Skipped) error {
	if err := s.retain(d.Resume, s.Recipe.Train.Checkpoint.Keep); err != nil {
		return err
	}
	s.state.Adjust.Skip = append(s.state.Adjust.Skip, d.Skip...)
	s.state.Adjust.Rate = append(s.state.Adjust.Rate, d.Slower...)
	if best := s.interval(); s.Adapt && best.Steps > 0 {
		s.state.Every = best.Steps
	}
	if err := s.writeRequests(); err != nil {
		return err
	}
	use, _ := s.chips()
	s.state.Attempts = append(s.state.Attempts, Attempt{
		Resume: d.Resume, ResumeStep: d.Step, LastStep: d.Step, Skipped: skipped, Saved: -1,
		Pool: s.pool().Name, Devices: ids(use), Began: s.now(), Ranks: map[int]rank{}, Recovered: map[Rung]int{},
	})
	a := &s.state.Attempts[len(s.state.Attempts)-1]
	number := 1
	if n := len(s.state.Attempts); n > 1 {
		number = s.state.Attempts[n-2].Number + 1
	}
	s.state.Reading, s.state.Trouble = reading{}, nil
	return s.number(a, number)
}

func (s *supervisor) recipePath() string { return filepath.Join(s.Dir, "recipe.json") }

func (s *supervisor) adjustPath() string { return filepath.Join(s.Dir, "adjust.json") }

// writeRequests writes the recipe and what is asked beside it.
func (s *supervisor) writeRequests() error {
	recipe := s.Recipe
	recipe.Train.Checkpoint.Every = s.state.Every
	for path, v := range map[string]any{s.recipePath(): recipe, s.adjustPath(): s.state.Adjust} {
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("prepare the run: %w", err)
		}
		if err := store.WriteFile(path, append(b, '\n'), 0o644); err != nil {
			return fmt.Errorf("prepare the run: %w", err)
		}
	}
	return nil
}

// number names the attempt, its task, its events file and its folder of
// checkpoints, and writes that down.
func (s *supervisor) number(a *Attempt, n int) error {
	a.Number, a.Task = n, fmt.Sprintf("%s-train-%d", s.Release, n)
	a.Events = filepath.Join(s.Dir, "attempts", fmt.Sprintf("attempt-%03d.jsonl", n))
	a.Checkpoints = attemptDir(s.Dir, n)
	use, _ := s.chips()
	s.state.Task = s.task(s.pool(), use, a.Task, map[string]string{
		"EVENTS": a.Events, "CHECKPOINTS": a.Checkpoints, "RESUME": a.Resume, "RECIPE": s.recipePath(),
	})
	a.Phase = Starting
	return s.save(Starting)
}

// task is a trainer's task with the contract's environment.
func (s *supervisor) task(p Pool, use []device.Device, name string, contract map[string]string) *executor.Task {
	if len(s.state.Adjust.Skip)+len(s.state.Adjust.Rate) > 0 {
		contract["ADJUST"] = s.adjustPath()
	}
	return p.task(use, name, s.Dir, contract)
}

func (p Pool) task(use []device.Device, name, dir string, contract map[string]string) *executor.Task {
	t := &executor.Task{Name: name, Argv: p.Argv, Dir: dir, Env: slices.Clone(p.Env)}
	if p.Visible != nil && len(use) > 0 {
		t.Env = append(t.Env, p.Visible(use)...)
	}
	for _, name := range []string{"EVENTS", "CHECKPOINTS", "RESUME", "RECIPE", "ADJUST", "REPLAY"} {
		t.Env = append(t.Env, "TARBERT_"+name+"="+contract[name])
	}
	// A Python trainer prints its stacks when it is told to abort.
	t.Env = append(t.Env, "PYTHONFAULTHANDLER=1")
	return t
}
