package train

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"tarbert/internal/checkpoint"
	"tarbert/internal/store"
)

// candidate is a checkpoint of some attempt, with the reason not to look at it.
type candidate struct {
	checkpoint.Entry
	attempt int
	skip    string
}

func attemptDir(dir string, number int) string {
	return filepath.Join(dir, "checkpoints", fmt.Sprintf("attempt-%04d", number))
}

// candidates lists all committed checkpoints, newest first: by step, then by
// attempt. Where two attempts saved the same step, the later one did it again.
func (s *supervisor) candidates() ([]candidate, error) {
	var out []candidate
	for i := range s.state.Attempts {
		a := &s.state.Attempts[i]
		entries, err := checkpoint.List(a.Checkpoints)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", store.ErrEnvironment, err)
		}
		for _, e := range entries {
			out = append(out, candidate{Entry: e, attempt: a.Number, skip: s.passOver(a, e)})
		}
	}
	slices.SortFunc(out, func(a, b candidate) int { return cmp.Or(b.Step-a.Step, b.attempt-a.attempt) })
	return out, nil
}

// passOver is why a checkpoint does not count, whatever is in it.
func (s *supervisor) passOver(a *Attempt, e checkpoint.Entry) string {
	if why, bad := s.state.Suspect[e.Dir]; bad {
		return why
	}
	switch {
	case e.Step > s.Recipe.Steps():
		return fmt.Sprintf("step %d lies past the recipe's %d", e.Step, s.Recipe.Steps())
	case a.Reported > 0 && e.Step > a.LastStep:
		return fmt.Sprintf("step %d lies ahead of the run: attempt %d got to step %d", e.Step, a.Number, a.LastStep)
	case a.From > 0 && e.Step >= a.From:
		return fmt.Sprintf("saved at or after step %d of attempt %d: %s", a.From, a.Number, a.Why)
	}
	if a.Sealed == nil { // not over yet
		return ""
	}
	was, known := a.Sealed[filepath.Base(e.Dir)]
	if !known {
		return fmt.Sprintf("written after attempt %d had ended: its token is no longer valid", a.Number)
	}
	if now, err := store.FileDigest(filepath.Join(e.Dir, "manifest.json")); err != nil || now != was {
		return fmt.Sprintf("its manifest is not the one that attempt %d ended with", a.Number)
	}
	return ""
}

// seal writes down what an attempt has saved: later additions are not read.
func (s *supervisor) seal(a *Attempt) error {
	entries, err := checkpoint.List(a.Checkpoints)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrEnvironment, err)
	}
	sealed := map[string]string{}
	for _, e := range entries {
		digest, err := store.FileDigest(filepath.Join(e.Dir, "manifest.json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: %w", store.ErrEnvironment, err)
		}
		sealed[filepath.Base(e.Dir)] = digest
	}
	a.Sealed = sealed
	return nil
}

// newestGood is the newest checkpoint that counts, with those passed over; with
// only, the newest whose step that allows.
func (s *supervisor) newestGood(only func(step int) bool) (*checkpoint.Entry, []checkpoint.Skipped, error) {
	all, err := s.candidates()
	if err != nil {
		return nil, nil, err
	}
	var skipped []checkpoint.Skipped
	for _, c := range all {
		if only != nil && !only(c.Step) {
			continue
		}
		reason := c.skip
		if reason == "" {
			if err := s.check(c.Dir); err != nil {
				reason = err.Error()
			}
		}
		if reason == "" {
			return &c.Entry, skipped, nil
		}
		skipped = append(skipped, checkpoint.Skipped{Step: c.Step, Dir: c.Dir, Reason: reason})
	}
	return nil, skipped, nil
}

// check proves a checkpoint good: manifest, hashes, a load, finite. It is called
// between attempts only, when nobody writes; what it found holds until the next attempt.
func (s *supervisor) check(dir string) error {
	if err, known := s.good[dir]; known {
		return err
	}
	err := proveGood(dir)
	s.good[dir] = err
	return err
}

func proveGood(dir string) error {
	if _, err := checkpoint.Verify(dir); err != nil {
		return err
	}
	if err := checkpoint.Loadable(dir); err != nil {
		return err
	}
	return checkpoint.Finite(dir)
}

// retain removes what nobody will go back to. The newest keep that count stay,
// the last of each recipe stage, last good, last proven, and what is to be
// resumed; of an attempt that runs, nothing is touched: its trainer prunes.
func (s *supervisor) retain(resume string, keep int) error {
	all, err := s.candidates()
	if err != nil {
		return err
	}
	stay := map[string]bool{resume: true}
	for _, k := range []*Kept{s.state.Good, s.state.Proven} {
		if k != nil {
			stay[k.Dir] = true
		}
	}
	if s.state.Move != nil {
		stay[s.state.Move.Checkpoint] = true
	}
	kept, last := 0, map[string]bool{}
	for _, c := range all {
		if c.skip != "" {
			continue
		}
		if kept < max(keep, 1) {
			kept++
			stay[c.Dir] = true
		}
		if st, err := checkpoint.ReadState(c.Dir); err == nil && !last[st.Stage] && c.Step == s.lastStepOf(st.Stage) {
			last[st.Stage] = true
			stay[c.Dir] = true
		}
	}
	running := s.state.running()
	for _, c := range all {
		if stay[c.Dir] || running != nil && c.attempt == running.Number {
			continue
		}
		if err := checkpoint.Remove(c.Dir); err != nil {
			return fmt.Errorf("%w: %w", store.ErrEnvironment, err)
		}
	}
	return nil
}

// lastStepOf is the last step of a recipe stage.
func (s *supervisor) lastStepOf(stage string) int {
	if stage == "sft" {
		return s.Recipe.Train.SFT.Steps
	}
	return s.Recipe.Steps()
}

// roomToSave is an error of the environment where the disk has no room for
// another checkpoint like the newest one.
func (s *supervisor) roomToSave(newest string) error {
	need := int64(1 << 20)
	if newest != "" {
		m, err := checkpoint.Verify(newest)
		if err != nil {
			return err
		}
		need = max(need, m.Bytes())
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.Dir, &fs); err != nil {
		return fmt.Errorf("%w: free space of %s: %w", store.ErrEnvironment, s.Dir, err)
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); free < need {
		return fmt.Errorf("%w: the disk of %s has %d bytes free, a checkpoint needs %d: free some space and run the same command again", store.ErrEnvironment, s.Dir, free, need)
	}
	return nil
}

// makeRoom removes all but last good, last proven and what is resumed, where
// the disk is too full for the next save.
func (s *supervisor) makeRoom(resume string) error {
	if s.roomToSave(resume) == nil {
		return nil
	}
	err := s.retain(resume, 1)
	s.state.alarm(s.lastNumber(), 0, alarmDisk, "the disk is nearly full: older checkpoints were removed, last good and last proven kept")
	if err != nil {
		return err
	}
	return s.roomToSave(resume)
}

func (s *supervisor) lastNumber() int {
	if n := len(s.state.Attempts); n > 0 {
		return s.state.Attempts[n-1].Number
	}
	return 0
}

// verified is what the verifier found of one checkpoint while the attempt runs.
type verified struct {
	Kept
	err error
}

// verify proves a checkpoint in the background, one at a time: the newest that
// waits. A checkpoint that is gone was pruned.
func (s *supervisor) verify(k Kept) {
	if s.verifying {
		s.waiting = &k
		return
	}
	s.verifying, s.waiting = true, nil
	s.verifier.Go(func() {
		err := proveGood(k.Dir)
		if _, gone := os.Stat(k.Dir); gone != nil {
			err = gone
		}
		s.results <- verified{k, err} // room for one, and there is one at a time
	})
}

// takeVerified takes in a result.
func (s *supervisor) takeVerified(a *Attempt, v verified) {
	s.verifying = false
	switch {
	case errors.Is(v.err, fs.ErrNotExist):
	case v.err != nil:
		s.state.alarm(a.Number, v.Step, alarmCheckpoint, fmt.Sprintf("the checkpoint of step %d is not good: %v", v.Step, v.err))
	case s.state.Trouble == nil:
		s.state.Good = &v.Kept
	}
	if s.waiting != nil {
		s.verify(*s.waiting)
	}
}
