package reference

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/engine"
	"tarbert/internal/executor"
)

// lease ends an engine that nobody has watched for this long.
const lease = time.Minute

// Engine serves models with the command it was made from.
type Engine struct{ argv []string }

var _ engine.Engine = (*Engine)(nil)

// New returns the driver; argv is how to run tarbert itself: its path.
func New(argv ...string) *Engine { return &Engine{argv: slices.Clone(argv)} }

// Name is the engine's.
func (*Engine) Name() string { return "reference" }

var (
	formats       = []string{"f32", "bf16", "w8a8-ascend"}
	architectures = []string{"deepseek_v3", "qwen3", "qwen3_moe"}
	precisions    = []string{"", "f32", "bf16", "w8a8"}
)

// Supports says whether the reference model reads m's format and
// architecture, on a processor. An empty format or architecture is left for
// the engine to find out.
func (*Engine) Supports(m engine.Model, d device.Device) error {
	switch {
	case d.Vendor != device.CPU:
		return fmt.Errorf("engine reference runs on cpu, not on %s", d.Vendor)
	case m.Format != "" && !slices.Contains(formats, m.Format):
		return fmt.Errorf("engine reference cannot load format %q: it reads %s", m.Format, strings.Join(formats, ", "))
	case m.Architecture != "" && !slices.Contains(architectures, m.Architecture):
		return fmt.Errorf("engine reference does not know architecture %q: it knows %s", m.Architecture, strings.Join(architectures, ", "))
	}
	return nil
}

// Task is "tarbert serve DIR".
func (e *Engine) Task(name string, m engine.Model, d device.Device, o engine.Options) (executor.Task, error) {
	if err := e.Supports(m, d); err != nil {
		return executor.Task{}, err
	}
	switch {
	case len(e.argv) == 0:
		return executor.Task{}, errors.New("engine reference has no command to run")
	case m.Dir == "":
		return executor.Task{}, errors.New("engine reference: the model has no directory")
	case o.Port <= 0 || o.Port > 65535:
		return executor.Task{}, fmt.Errorf("engine reference: port %d is not one", o.Port)
	case !slices.Contains(precisions, o.Precision):
		return executor.Task{}, fmt.Errorf("engine reference computes in f32, bf16 or w8a8, not in %q", o.Precision)
	}
	argv := append(slices.Clone(e.argv), "serve", m.Dir)
	if o.Precision != "" {
		argv = append(argv, "--precision", o.Precision)
	}
	host := o.Host
	if host == "" {
		host = "127.0.0.1"
	}
	argv = append(argv, "--addr", net.JoinHostPort(host, strconv.Itoa(o.Port)))
	if o.Threads > 0 {
		argv = append(argv, "--threads", strconv.Itoa(o.Threads))
	}
	if m.Name != "" {
		argv = append(argv, "--name", m.Name)
	}
	return executor.Task{Name: name, Argv: argv, Lease: lease}, nil
}

// Ready asks /health, then /v1/models for at least one model.
func (*Engine) Ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c := engine.Client{URL: url, Patience: time.Nanosecond}
	if err := c.Health(ctx); err != nil {
		return err
	}
	models, err := c.Models(ctx)
	if err != nil {
		return err
	}
	if len(models) == 0 {
		return fmt.Errorf("%s is healthy but lists no model", url)
	}
	return nil
}
