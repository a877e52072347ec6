package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tarbert/harness"
	"tarbert/internal/device"
	"tarbert/internal/reference/trainer"
	"tarbert/internal/spec"
)

// doNotRestart is the exit code by which a trainer asks not to be started again.
const doNotRestart = 93

// torchrunCommand is the torchrun trainer as a task: it writes the Python
// programs beside itself, draws the first weights from the seed where there are
// none, and becomes the interpreter, so that the task is the trainer.
func (a *app) torchrunCommand() *cobra.Command {
	return &cobra.Command{
		Use: "torchrun", Hidden: true, Args: cobra.NoArgs,
		Short: "The PyTorch trainer, speaking the trainer contract",
		RunE: func(c *cobra.Command, _ []string) error {
			python, argv, env, err := prepareTorchrun(c.Context())
			if err == nil {
				err = syscall.Exec(python, argv, env) // returns only where it failed
			}
			if classify(err) == exitEnvironment {
				return err // a full disk may have room the next time
			}
			return exitCode{code: doNotRestart, err: err}
		},
	}
}

func prepareTorchrun(ctx context.Context) (python string, argv, env []string, err error) {
	path := os.Getenv("TARBERT_RECIPE")
	if path == "" {
		return "", nil, nil, errors.New("torchrun speaks the trainer contract: TARBERT_RECIPE is not set (docs/formats.md)")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", nil, nil, fmt.Errorf("read the recipe: %w", err)
	}
	var r spec.Recipe
	if err := json.Unmarshal(b, &r); err != nil {
		return "", nil, nil, fmt.Errorf("recipe %s: %w", path, err)
	}
	if python, err = findPython(ctx, r.Train); err != nil {
		return "", nil, nil, err
	}
	here, err := os.Getwd()
	if err != nil {
		return "", nil, nil, err
	}
	dir, err := harness.Materialise(here)
	if err != nil {
		return "", nil, nil, err
	}
	env = append(os.Environ(), "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "HF_HUB_OFFLINE=1", "TOKENIZERS_PARALLELISM=false")
	if os.Getenv("TARBERT_RESUME") == "" {
		initial := filepath.Join(here, "initial")
		if drawn, err := trainer.WriteInitial(r, initial); err != nil {
			return "", nil, nil, err
		} else if drawn {
			env = append(env, "TARBERT_INITIAL="+initial)
		}
	}
	return python, []string{python, filepath.Join(dir, "launch.py")}, env, nil
}

// neededModules are what the harness imports beside the standard library.
var neededModules = []string{"torch", "transformers", "safetensors", "tokenizers", "numpy"}

// findPython resolves the recipe's interpreter and proves that it has what the
// trainer needs, without the seconds that importing it takes.
func findPython(ctx context.Context, t spec.Train) (string, error) {
	name := t.Torchrun.Python
	if name == "" {
		name = "python3"
	}
	python, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("train.torchrun.python: %w: name an interpreter that has PyTorch, such as python: /opt/venv/bin/python", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	const ask = "import importlib.util, sys\nprint(*[m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])"
	out, err := exec.CommandContext(ctx, python, append([]string{"-c", ask}, neededModules...)...).Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return "", fmt.Errorf("train.torchrun.python: %s does not run Python: %w: %s", python, err, strings.TrimSpace(string(exit.Stderr)))
	case err != nil:
		return "", fmt.Errorf("train.torchrun.python: %s: %w", python, err)
	}
	if missing := strings.Fields(string(out)); len(missing) > 0 {
		return "", fmt.Errorf("train.torchrun.python: %s has no %s: type\n  %s -m pip install torch 'transformers>=5' safetensors\nor name another interpreter in the release file (train.torchrun.python)",
			python, strings.Join(missing, ", "), python)
	}
	return python, nil
}

// trainerReady refuses, before any stage has run, a release whose trainer cannot
// start here. What a pool of other chips names for itself may be there only where
// those are: it is looked for when it starts.
func (a *app) trainerReady(ctx context.Context, s *spec.Release) error {
	python := false
	for _, p := range s.Pools {
		if own := p.Trainer != "" || len(p.Command) > 0; !p.Trains() || own && p.Vendor != device.CPU {
			continue
		}
		name, command := s.TrainerOf(p.Name)
		switch {
		case name == spec.TrainerCommand:
			if err := canStart(command[0], p.Name); err != nil {
				return err
			}
		case name == spec.TrainerTorchrun && !python:
			python = true
			_, err := findPython(ctx, s.Train)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return badUsage("%w", err)
			case err != nil:
				return environment(err)
			}
		}
	}
	return nil
}

// canStart says whether a trainer's program is there and may be run.
func canStart(program, pool string) error {
	_, err := exec.LookPath(program)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return environment(fmt.Errorf("the trainer of pool %s: %w: install it, or name a file as ./train.sh", pool, err))
	case errors.Is(err, fs.ErrPermission):
		return badUsage("the trainer of pool %s: %w: type\n  chmod +x %s\nor name its interpreter before it: command: [python3, ./…]", pool, err, program)
	}
	return badUsage("the trainer of pool %s: %w", pool, err)
}
