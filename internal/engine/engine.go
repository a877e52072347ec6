package engine

import (
	"context"

	"tarbert/internal/device"
	"tarbert/internal/executor"
)

// Model is a directory that an engine loads.
type Model struct {
	Dir string `json:"dir"`
	// Name is what clients ask for ("model" in requests).
	Name string `json:"name"`
	// Format is how the weights are stored: "f32", "bf16", "w8a8-ascend", …
	Format string `json:"format"`
	// Architecture is config.json's model_type.
	Architecture string `json:"architecture"`
}

// Options of one deployment.
type Options struct {
	Host string `json:"host"` // 127.0.0.1 if empty
	Port int    `json:"port"`
	// Precision the engine computes in: "f32", "bf16", "w8a8". Empty: the engine's choice for the format.
	Precision string `json:"precision,omitempty"`
	Threads   int    `json:"threads,omitempty"`
}

// Engine is what an inference engine owes.
type Engine interface {
	Name() string
	// Supports returns nil, or the reason why this engine cannot serve m on d.
	Supports(m Model, d device.Device) error
	// Task is the command that serves m at http://Host:Port.
	Task(name string, m Model, d device.Device, o Options) (executor.Task, error)
	// Ready returns nil once the deployment at url answers for a model.
	Ready(ctx context.Context, url string) error
}
