package cpu

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"tarbert/internal/device"
)

// ID is the one device's.
const ID = "cpu"

// Driver reads one machine's processors.
type Driver struct {
	root fs.FS // of the file system: "proc/cpuinfo", "sys/fs/cgroup/…"
	arch string
	now  func() time.Time
}

var _ device.Driver = (*Driver)(nil)

// New is the driver of this machine.
func New() *Driver { return NewAt(os.DirFS("/"), runtime.GOARCH, time.Now) }

// NewAt is a driver of the machine whose file system is root.
func NewAt(root fs.FS, arch string, now func() time.Time) *Driver {
	return &Driver{root: root, arch: arch, now: now}
}

// Vendor implements device.Driver.
func (d *Driver) Vendor() device.Vendor { return device.CPU }

// Detect implements device.Driver.
func (d *Driver) Detect(ctx context.Context) ([]device.Device, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	text, err := fs.ReadFile(d.root, "proc/cpuinfo")
	if err != nil {
		return nil, fmt.Errorf("detect processors: %w", err)
	}
	info := parseCPUInfo(text)
	if info.processors == 0 {
		return nil, fmt.Errorf("detect processors: no processor in /proc/cpuinfo: %.200q", text)
	}
	total, _, err := d.memory()
	if err != nil {
		return nil, fmt.Errorf("detect processors: %w", err)
	}
	if limit, ok := d.memoryLimit(); ok {
		total = min(total, limit)
	}
	return []device.Device{{
		ID: ID, Vendor: device.CPU, Model: info.model, Memory: total, Cores: d.cores(info.processors),
		Features: features(info.flags, d.arch), Health: device.Healthy,
	}}, nil
}

// Sample implements device.Driver. Memory used is what the machine could not
// give to a new process; one reading of the counters says nothing of
// utilization, so that is left out.
func (d *Driver) Sample(ctx context.Context, ids []string) ([]device.Sample, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	total, available, err := d.memory()
	if err != nil {
		return nil, fmt.Errorf("sample processors: %w", err)
	}
	out := make([]device.Sample, len(ids))
	for i, id := range ids {
		out[i] = device.Sample{ID: id, At: d.now(), Health: device.Unknown}
		if id != ID {
			out[i].Detail = "there is no such device"
			continue
		}
		used := total - available
		out[i].Health, out[i].MemoryUsed = device.Healthy, &used
	}
	return out, nil
}

// Env implements device.Driver: nothing hides processors from a process.
func (d *Driver) Env([]device.Device) []string { return nil }
