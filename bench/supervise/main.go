// Command supervise measures what supervision costs a training run: the
// reference trainer on the model of examples/sums, alone and supervised, in
// turns and in pairs, so that the machine's noise falls on both alike. It prints
// the paired ratio of the trainer's wall and processor time, and the processor
// time of the supervisor and its shim beside the trainer's: in all, which has their
// start and the last checkpoint's proof in it, and of the supervisor alone from the
// first step to the last, as a share of one core and with its wake-ups.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"tarbert/internal/executor/local"
	"tarbert/internal/progress"
	"tarbert/internal/spec"
	"tarbert/internal/train"
)

func main() {
	binary := flag.String("tarbert", "", "the program to measure (make build: bin/tarbert)")
	example := flag.String("example", "../examples/sums", "the release whose model is trained")
	dataset := flag.String("dataset", "", `JSON Lines of {"id","prompt","completion"}`)
	steps := flag.Int("steps", 80, "steps of a run")
	pairs := flag.Int("pairs", 5, "pairs of runs")
	flag.Parse()
	if err := run(*binary, *example, *dataset, *steps, *pairs); err != nil {
		fmt.Fprintln(os.Stderr, "supervise:", err)
		os.Exit(1)
	}
}

// cost is what one run took.
type cost struct{ wall, processor, supervisor, steady, wakes float64 }

func run(binary, example, dataset string, steps, pairs int) error {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	s, err := spec.Load(example)
	if err != nil {
		return err
	}
	root, err := os.MkdirTemp("", "bench-supervise-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if dataset == "" {
		if dataset, err = makeDataset(s.Label.Annotations, root); err != nil {
			return err
		}
	}
	if dataset, err = filepath.Abs(dataset); err != nil {
		return err
	}
	t := s.Train
	t.SFT.Steps, t.GRPO.Steps, t.Checkpoint.Every = steps, 0, max(steps/4, 1)
	recipe := spec.Recipe{Seed: 1, Dataset: dataset, Train: t, Threads: 2}
	var wall, processor, own, steady, wakes []float64
	fmt.Printf("%4s  %12s %12s %8s  %12s %12s %8s  %16s %14s %8s\n", "pair", "alone s", "supervised s", "ratio", "alone cpu s", "supervised", "ratio", "supervisor cpu", "while stepping", "wakes/s")
	for n := range pairs {
		order := []bool{n%2 == 0, n%2 != 0}
		got := map[bool]cost{}
		for _, supervised := range order {
			dir := filepath.Join(root, fmt.Sprintf("%d-%v", n, supervised))
			c, err := one(binary, dir, recipe, supervised)
			if err != nil {
				return err
			}
			got[supervised] = c
		}
		a, b := got[false], got[true]
		wall, processor, own = append(wall, b.wall/a.wall), append(processor, b.processor/a.processor), append(own, b.supervisor/b.processor)
		fmt.Printf("%4d  %12.3f %12.3f %8.4f  %12.3f %12.3f %8.4f  %9.3f s %.2f %%  %12.3f %% %7.1f\n", n+1, a.wall, b.wall, b.wall/a.wall, a.processor, b.processor, b.processor/a.processor, b.supervisor, 100*b.supervisor/b.processor, 100*b.steady, b.wakes)
		steady, wakes = append(steady, b.steady), append(wakes, b.wakes)
	}
	fmt.Printf("median  wall %.4f × (%.4f to %.4f), processor %.4f × (%.4f to %.4f); supervisor and shim use %.3f %% of the trainer's processor time in all; while stepping the supervisor uses %.3f %% (%.3f to %.3f) of a core and wakes %.1f times a second\n",
		median(wall), slices.Min(wall), slices.Max(wall), median(processor), slices.Min(processor), slices.Max(processor), 100*median(own), 100*median(steady), 100*slices.Min(steady), 100*slices.Max(steady), median(wakes))
	return nil
}

func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// one runs the trainer to its end. A shell times it in both cases.
func one(binary, dir string, recipe spec.Recipe, supervised bool) (cost, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return cost{}, err
	}
	times := filepath.Join(dir, "times")
	argv := []string{"bash", "-c", `TIMEFORMAT="%3R %3U %3S"; { time "$0" trainer 2>&1; } 2> "$TIMES"`, binary}
	var meter stepMeter
	self, children := usage(syscall.RUSAGE_SELF), usage(syscall.RUSAGE_CHILDREN)
	if supervised {
		_, err := train.Run(context.Background(), train.Input{
			Release: "bench", Recipe: recipe, Dir: filepath.Join(dir, "stage"), Now: time.Now, Progress: meter.take,
			Pool: train.Pool{Name: "here", Argv: argv, Env: []string{"TIMES=" + times}, Executor: local.New(filepath.Join(dir, "tasks"), []string{binary, "shim"}, time.Now)},
		})
		if err != nil {
			return cost{}, err
		}
	} else if err := alone(argv, dir, times, recipe); err != nil {
		return cost{}, err
	}
	b, err := os.ReadFile(times)
	if err != nil {
		return cost{}, err
	}
	var c cost
	var user, sys float64
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if _, err := fmt.Sscanf(lines[len(lines)-1], "%f %f %f", &c.wall, &user, &sys); err != nil {
		return cost{}, fmt.Errorf("times %q: %w", b, err)
	}
	c.processor = user + sys
	if supervised {
		// The shim is reaped by a goroutine of the executor's, a moment after the end.
		<-time.After(200 * time.Millisecond)
		c.supervisor = usage(syscall.RUSAGE_SELF) - self + max(0, usage(syscall.RUSAGE_CHILDREN)-children-c.processor)
		c.steady, c.wakes = meter.share()
	}
	return c, nil
}

// stepMeter is what this process, the supervisor, uses from its first step to its last.
type stepMeter struct{ first, last reading }

type reading struct {
	at        time.Time
	processor float64
	wakes     int64
}

func (m *stepMeter) take(progress.Update) {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return
	}
	m.last = reading{time.Now(), float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9, u.Nvcsw}
	if m.first.at.IsZero() {
		m.first = m.last
	}
}

// share is of one core, and wake-ups a second.
func (m *stepMeter) share() (processor, wakes float64) {
	wall := m.last.at.Sub(m.first.at).Seconds()
	if wall <= 0 {
		return 0, 0
	}
	return (m.last.processor - m.first.processor) / wall, float64(m.last.wakes-m.first.wakes) / wall
}

func usage(who int) float64 {
	var u syscall.Rusage
	if syscall.Getrusage(who, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func alone(argv []string, dir, times string, recipe spec.Recipe) error {
	b, err := json.Marshal(recipe)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "recipe.json")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "TIMES="+times, "TARBERT_EVENTS="+filepath.Join(dir, "events"), "TARBERT_CHECKPOINTS="+filepath.Join(dir, "checkpoints"),
		"TARBERT_RESUME=", "TARBERT_RECIPE="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("trainer: %w\n%s", err, out)
	}
	return nil
}

// makeDataset takes the annotations' items as they are: their labels do not matter here.
func makeDataset(annotations, dir string) (string, error) {
	b, err := os.ReadFile(annotations)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "dataset.jsonl")
	return path, os.WriteFile(path, b, 0o644)
}
