package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Entry is a committed checkpoint: one whose manifest is there. It is not yet verified.
type Entry struct {
	Step int    `json:"step"`
	Dir  string `json:"dir"`
}

// Skipped is a checkpoint that Newest passed over.
type Skipped struct {
	Step   int    `json:"step"`
	Dir    string `json:"dir"`
	Reason string `json:"reason"`
}

func stepName(step int) string { return fmt.Sprintf("step-%08d", step) }

// parseStep reads a directory's name; only the spelling that stepName gives counts.
func parseStep(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, "step-")
	if !ok {
		return 0, false
	}
	step, err := strconv.Atoi(digits)
	return step, err == nil && step >= 0 && stepName(step) == name
}

// List gives the checkpoints under root whose manifest is there, by rising step.
// A root that does not exist has none.
func List(root string) ([]Entry, error) {
	all, err := named(root)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(e Entry) bool {
		_, err := os.Lstat(filepath.Join(e.Dir, manifestName))
		return err != nil
	}), nil
}

// named gives every directory with a checkpoint's name, by rising step.
func named(root string) ([]Entry, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	var out []Entry
	for _, e := range entries {
		if step, ok := parseStep(e.Name()); ok && e.IsDir() {
			out = append(out, Entry{Step: step, Dir: filepath.Join(root, e.Name())})
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return a.Step - b.Step })
	return out, nil
}

// Newest is the checkpoint of the highest step that verifies, and why those of
// higher steps were passed over. With none, dir is empty and err nil.
func Newest(root string) (dir string, skipped []Skipped, err error) {
	all, err := named(root)
	if err != nil {
		return "", nil, err
	}
	for _, e := range slices.Backward(all) {
		_, err := Verify(e.Dir)
		if err == nil {
			return e.Dir, skipped, nil
		}
		reason := err.Error()
		if errors.Is(err, os.ErrNotExist) {
			reason = "not committed: " + reason
		}
		skipped = append(skipped, Skipped{Step: e.Step, Dir: e.Dir, Reason: reason})
	}
	return "", skipped, nil
}

// Remove removes one checkpoint. It is renamed first, so that it is never seen
// half gone. One that is not there is no error.
func Remove(dir string) error {
	root := filepath.Dir(dir)
	trash, err := os.MkdirTemp(root, trashPrefix)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove checkpoint: %w", err)
	}
	if err := os.Rename(dir, filepath.Join(trash, filepath.Base(dir))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Join(fmt.Errorf("remove checkpoint: %w", err), os.Remove(trash))
	}
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("remove checkpoint: %w", err)
	}
	return nil
}

// Prune removes the checkpoints under root that keep does not want, and what
// dead writers left. The one of the highest step stays whatever keep says. Each
// is renamed before it is removed, so that none is ever seen half gone.
func Prune(root string, keep func(Entry) bool) (removed []Entry, err error) {
	return prune(root, keep, realDisk{})
}

func prune(root string, keep func(Entry) bool, d disk) (removed []Entry, err error) {
	all, err := List(root)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	for _, e := range all[:len(all)-1] {
		if keep(e) {
			continue
		}
		trash, err := os.MkdirTemp(root, trashPrefix)
		if err != nil {
			return removed, fmt.Errorf("prune checkpoints: %w", err)
		}
		if err := d.rename(e.Dir, filepath.Join(trash, filepath.Base(e.Dir))); err != nil {
			return removed, fmt.Errorf("prune checkpoints: %w", err)
		}
		removed = append(removed, e)
		if err := d.removeAll(trash); err != nil {
			return removed, fmt.Errorf("prune checkpoints: %w", err)
		}
	}
	if err := d.sync(root); err != nil {
		return removed, fmt.Errorf("prune checkpoints: %w", err)
	}
	return removed, nil
}
