package device

import (
	"context"
	"errors"
	"strings"
	"time"
)

// Vendor names who made a chip: "nvidia", "ascend", "cpu".
type Vendor string

// The vendors with a driver.
const (
	NVIDIA Vendor = "nvidia"
	Ascend Vendor = "ascend"
	CPU    Vendor = "cpu"
)

// Health is three-valued on purpose; see the package comment.
type Health string

// Health values.
const (
	Healthy   Health = "healthy"
	Unhealthy Health = "unhealthy"
	Unknown   Health = "unknown"
)

// Device is one chip (for cpu: one node's processors together).
type Device struct {
	ID     string `json:"id"` // stable on its node: UUID, bus id, "cpu"
	Vendor Vendor `json:"vendor"`
	Model  string `json:"model"`           // "H100 80GB HBM3", "910B3", "Intel(R) Xeon(R) Processor"
	Index  int    `json:"index"`           // what the vendor's visible-devices variable counts
	Memory int64  `json:"memory"`          // bytes; 0 = not known
	Cores  int    `json:"cores,omitempty"` // cpu only
	// Features are instruction sets or capabilities: "avx512f", "bf16", "int8", "fp8".
	Features []string `json:"features,omitempty"`
	Health   Health   `json:"health"`
	// Detail is the vendor's own word on health, kept raw.
	Detail string `json:"detail,omitempty"`
}

// Name is the model without what vendors' tools put before it: "NVIDIA H100 80GB
// HBM3", "Tesla V100-SXM2-32GB", "Ascend910B3" and "910B3" begin as tables name them.
func (d Device) Name() string {
	model := strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(d.Model, "NVIDIA"), "Ascend"))
	return strings.TrimPrefix(model, "Tesla ")
}

// Sample is one reading of a device's state; absent figures are NaN-free nils.
type Sample struct {
	ID          string    `json:"id"`
	At          time.Time `json:"at"`
	Health      Health    `json:"health"`
	MemoryUsed  *int64    `json:"memory_used,omitempty"`
	Utilization *float64  `json:"utilization,omitempty"` // 0–1
	Temperature *float64  `json:"temperature,omitempty"` // °C
	Power       *float64  `json:"power,omitempty"`       // W
	Detail      string    `json:"detail,omitempty"`
}

// Node is a machine with its devices.
type Node struct {
	Name    string   `json:"name"`
	OS      string   `json:"os"`
	Arch    string   `json:"arch"`
	Devices []Device `json:"devices"`
	// Absent lists vendors whose tool is not installed, or did not answer, with the reason.
	Absent map[Vendor]string `json:"absent,omitempty"`
}

// ErrAbsent is wrapped by Detect when the vendor's tool is not on this node:
// the normal state of a machine without that vendor's chips.
var ErrAbsent = errors.New("vendor tool is not installed")

// Run executes a vendor tool and returns its standard output. A tool that is
// not installed gives an error wrapping exec.ErrNotFound.
type Run func(ctx context.Context, name string, args ...string) ([]byte, error)

// Driver is what a vendor owes.
type Driver interface {
	Vendor() Vendor
	// Detect lists this node's chips. It returns an error wrapping ErrAbsent
	// where the vendor's tool is missing, and any other error where the tool
	// is there but could not be understood (with its raw output in the text).
	Detect(ctx context.Context) ([]Device, error)
	// Sample reads the state of the devices with these ids, in their order.
	Sample(ctx context.Context, ids []string) ([]Sample, error)
	// Env is what makes a process see these devices only: KEY=VALUE pairs.
	Env(devices []Device) []string
}
