package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/device/ascend"
	"tarbert/internal/device/cpu"
	"tarbert/internal/device/nvidia"
	"tarbert/internal/engine"
	enginereference "tarbert/internal/engine/reference"
	"tarbert/internal/executor"
	"tarbert/internal/executor/local"
	"tarbert/internal/reference/kernel"
	"tarbert/internal/release"
	"tarbert/internal/spec"
	"tarbert/internal/store"
)

// drivers lists every device driver; adding a chip is one line here.
func drivers() []device.Driver {
	return []device.Driver{nvidia.New(runTool), ascend.New(runTool), cpu.New()}
}

// runTool runs a vendor's tool. The drivers set the deadline.
func runTool(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	return cmd.Output()
}

// runShim is the body of the hidden command that the local executor starts tasks through.
func runShim(dir string) int { return local.Shim(dir) }

// environmentSentinels are the errors by which packages say that the machine, not the input, is at fault.
func environmentSentinels() []error {
	return []error{store.ErrEnvironment, store.ErrLocked, store.ErrDamaged, engine.ErrNotReady, engine.ErrExited}
}

// deps wires what a release touches. done closes it.
func (a *app) deps(ctx context.Context) (release.Deps, func(), error) {
	home, err := filepath.Abs(a.home)
	if err != nil {
		return release.Deps{}, nil, environment(err)
	}
	st, err := store.Open(ctx, home)
	if err != nil {
		return release.Deps{}, nil, err
	}
	ex, self, err := a.local(home)
	if err != nil {
		return release.Deps{}, nil, errors.Join(err, st.Close())
	}
	return release.Deps{
		Store: st, Home: home, Devices: drivers(),
		Executors: map[string]executor.Executor{"local": ex},
		Engines:   map[string]engine.Engine{"reference": enginereference.New(self)},
		Trainers:  map[string][]string{spec.TrainerReference: {self, "trainer"}, spec.TrainerTorchrun: {self, "torchrun"}},
		Now:       a.now,
		Measure:   func(threads int) float64 { return kernel.MeasureGFLOPS(threads, 200*time.Millisecond) },
		Threads:   a.cores(),
		Version:   version(),
	}, func() { st.Close() }, nil
}

// local is the executor of this machine, with the path of the binary that its tasks run.
func (a *app) local(home string) (*local.Executor, string, error) {
	self, err := installSelf(home)
	if err != nil {
		return nil, "", environment(fmt.Errorf("copy this program into %s: %w", home, err))
	}
	return local.New(filepath.Join(home, "tasks"), []string{self, "shim"}, a.now, drivers()...), self, nil
}

// installSelf copies this program to HOME/bin/tarbert, where tasks start it
// from: the file of a `go run` is gone when that ends, and a task must have the
// same command when a later process attaches to it.
func installSelf(home string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	target := filepath.Join(home, "bin", "tarbert")
	if exe == target {
		return target, nil
	}
	want, err := store.FileDigest(exe)
	if err != nil {
		return "", err
	}
	if have, err := store.FileDigest(target); err == nil && have == want {
		return target, nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(filepath.Dir(target), ".tarbert-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name())
	src, err := os.Open(exe)
	if err != nil {
		return "", err
	}
	defer src.Close()
	if _, err := io.Copy(tmp, src); err != nil {
		return "", err
	}
	if err := errors.Join(tmp.Chmod(0o755), tmp.Sync(), tmp.Close()); err != nil {
		return "", err
	}
	return target, os.Rename(tmp.Name(), target)
}
