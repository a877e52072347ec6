package train

import (
	"context"
	"regexp"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/executor"
	"tarbert/internal/progress"
	"tarbert/internal/spec"
)

// Pool is where attempts run: a trainer's command, and the chips it gets.
type Pool struct {
	Name     string
	Argv     []string // the trainer's command
	Program  []string // what trains, for the record: Argv may hold paths that say nothing elsewhere
	Env      []string
	Executor executor.Executor
	// Devices are the chips of an attempt, Spares those that may take the place
	// of one that is left out. Without any, none is counted or looked at.
	Devices []device.Device
	Spares  []device.Device
	// Visible is what makes a process see these chips only.
	Visible func([]device.Device) []string
	// Sample reads chips' state; it may fail or hang, and is unknown then.
	Sample func(ctx context.Context, ids []string) ([]device.Sample, error)
	// Remedy is the vendor's word on a fault code.
	Remedy func(code string) device.Remedy
	Price  float64 // of a chip for an hour
}

// Input is what the stage works with.
type Input struct {
	Release  string // prefix of task names
	Recipe   spec.Recipe
	Dir      string // the stage's own; checkpoints and events go below it
	Pool     Pool
	Fallback *Fallback // nil: there is none
	Limits   Limits
	// Adapt lets the checkpoint interval follow what was measured, from one attempt to the next.
	Adapt bool
	Now   func() time.Time
	// Elapsed is monotonic time; nil: the process's own. No jump of Now moves it.
	Elapsed  func() time.Duration
	Progress progress.Func
	// Poll is how often the events file is read; 0 = 250 ms. It is most of what
	// supervision costs, and far below what is learned from it.
	Poll time.Duration
	// Farewell is how long a trainer may take to exit after its done event; 0 = 2 minutes.
	Farewell time.Duration
	// SampleEvery is how often chips are looked at; 0 = 10 s.
	SampleEvery time.Duration
	// LogPattern reads steps from the log of a trainer that does not speak the
	// contract: named groups step, loss, grad_norm. The usual ones are known.
	LogPattern *regexp.Regexp

	// written, if set, is told of every phase right after it is on disk: the
	// points at which tests kill the supervisor.
	written func(Phase)
	// wide is how many steps in a row make a spike wide; 0 = 10.
	wide int
}
