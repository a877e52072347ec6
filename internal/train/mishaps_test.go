package train

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/executor"
)

// executorThatLoses wraps an executor whose polls are lost at first.
type executorThatLoses struct {
	executor.Executor
	polls int
}

func (e *executorThatLoses) Watch(ctx context.Context, name string) iter.Seq2[executor.Status, error] {
	return func(yield func(executor.Status, error) bool) {
		for ; e.polls > 0; e.polls-- {
			if !yield(executor.Status{Name: name, State: executor.Unknown, Reason: "status: i/o timeout"}, nil) {
				return
			}
		}
		e.Executor.Watch(ctx, name)(yield)
	}
}

func lostPolls(n int) func(*testing.T, string, *Input) {
	return func(_ *testing.T, _ string, in *Input) { in.Pool.Executor = &executorThatLoses{in.Pool.Executor, n} }
}

// chips gives the pool two chips and a spare, with NVIDIA's word on Xids.
func chips(_ *testing.T, _ string, in *Input) {
	in.Pool.Devices = []device.Device{{ID: "chip-0"}, {ID: "chip-1"}}
	in.Pool.Spares = []device.Device{{ID: "chip-2"}}
	in.Pool.Visible = func(all []device.Device) []string { return []string{"CHIPS=" + strings.Join(ids(all), ",")} }
	in.Pool.Remedy = func(code string) device.Remedy {
		return map[string]device.Remedy{"79": device.RemedyNode, "31": device.RemedyProcess}[code]
	}
}

// toolLosesChip is a vendor's tool as a process, after which chip-1 is gone for good.
func toolLosesChip(t *testing.T, dir string, in *Input) {
	chips(t, dir, in)
	tool := filepath.Join(dir, "vendor-smi")
	script := fmt.Sprintf("#!/bin/sh\nfor c in \"$@\"; do if [ $c = chip-1 ] && [ -d %s/stage/checkpoints/attempt-0001/step-00000010 ]; then echo $c ERR; else echo $c OK; fi; done\n", dir)
	if err := os.WriteFile(tool, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	in.SampleEvery = 20 * time.Millisecond
	in.Pool.Sample = func(ctx context.Context, chips []string) ([]device.Sample, error) {
		out, err := exec.CommandContext(ctx, tool, chips...).Output()
		var all []device.Sample
		for line := range strings.Lines(string(out)) {
			id, state, _ := strings.Cut(strings.TrimSpace(line), " ")
			health := device.Healthy
			if state != "OK" {
				health = device.Unhealthy
			}
			all = append(all, device.Sample{ID: id, Health: health, Detail: state})
		}
		return all, err
	}
}

func toolHangs(t *testing.T, dir string, in *Input) {
	chips(t, dir, in)
	in.SampleEvery = 20 * time.Millisecond
	in.Pool.Sample = func(ctx context.Context, _ []string) ([]device.Sample, error) {
		return nil, exec.CommandContext(ctx, "/bin/sh", "-c", "sleep 600").Run()
	}
}

func onSpare(t *testing.T, _ string, r *Report) {
	if got := r.Attempts[1].Devices; !slices.Equal(got, []string{"chip-0", "chip-2"}) || r.Cordoned["chip-1"] == "" {
		t.Errorf("the second attempt ran on %v, cordoned %v", got, r.Cordoned)
	}
	if !strings.Contains(strings.Join(r.Decisions, "\n"), string(RungTask)) {
		t.Errorf("decisions %q do not name the rung %q", r.Decisions, RungTask)
	}
}

func orphanGone(t *testing.T, dir string, _ *Report) {
	b, err := os.ReadFile(filepath.Join(dir, "orphan"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.Contains(cmdline, []byte(dir)) {
		t.Errorf("the orphan %d lives", pid)
	}
}

// jumpingClock goes forward and back by hours; elapsed time goes on as it does.
func jumpingClock(_ *testing.T, _ string, in *Input) {
	n := 0
	var mu sync.Mutex
	in.Now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		n++
		return time.Now().Round(0).Add([]time.Duration{0, 5 * time.Hour, -7 * time.Hour}[n%3])
	}
}

func boundedLog(t *testing.T, dir string, r *Report) {
	var n int64
	for _, name := range []string{"log", "log.1"} {
		if info, err := os.Stat(filepath.Join(dir, "tasks", r.Attempts[0].Task, name)); err == nil {
			n += info.Size()
		}
	}
	if n == 0 || n > 64<<20 {
		t.Errorf("the log has %d bytes", n)
	}
}

// dyingGasp: what was asked to end saved first, and the next attempt begins there.
func dyingGasp(t *testing.T, _ string, r *Report) {
	if got := r.Attempts[1].ResumeStep; got < 24 || got > 26 {
		t.Errorf("resumed from step %d, want what was saved on the notice", got)
	}
}
