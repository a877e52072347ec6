package nvidia

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"tarbert/internal/device"
)

const tool = "nvidia-smi"

// Driver reads the GPUs of one node.
type Driver struct {
	// Timeout is each probe's own deadline.
	Timeout time.Duration
	// Now stamps samples.
	Now func() time.Time

	run device.Run
}

var _ device.Driver = (*Driver)(nil)

// New makes a driver that runs the vendor's tool through run.
func New(run device.Run) *Driver {
	return &Driver{Timeout: 15 * time.Second, Now: time.Now, run: run}
}

// Vendor implements device.Driver.
func (d *Driver) Vendor() device.Vendor { return device.NVIDIA }

// Detect implements device.Driver.
func (d *Driver) Detect(ctx context.Context) ([]device.Device, error) {
	gpus, err := d.query(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]device.Device, len(gpus))
	for i, g := range gpus {
		out[i] = device.Device{
			ID: g.id(), Vendor: device.NVIDIA, Model: g.text("name"), Index: g.index(), Memory: g.bytes("memory.total"),
			Features: g.features(), Health: g.health, Detail: g.detail,
		}
	}
	return out, nil
}

// Sample implements device.Driver.
func (d *Driver) Sample(ctx context.Context, ids []string) ([]device.Sample, error) {
	gpus, err := d.query(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string]gpu{}
	for _, g := range gpus {
		byID[g.id()] = g
	}
	at := d.Now()
	out := make([]device.Sample, len(ids))
	for i, id := range ids {
		g, ok := byID[id]
		if !ok {
			out[i] = device.Sample{ID: id, At: at, Health: device.Unknown, Detail: tool + " does not list it"}
			continue
		}
		out[i] = device.Sample{ID: id, At: at, Health: g.health, Detail: g.detail, Temperature: g.number("temperature.gpu", "", "C"), Power: g.number("power.draw", "W")}
		if used := g.bytes("memory.used"); used > 0 {
			out[i].MemoryUsed = &used
		}
		if u := g.number("utilization.gpu", "%"); u != nil {
			share := *u / 100
			out[i].Utilization = &share
		}
	}
	return out, nil
}

// Env implements device.Driver. UUIDs name the same chip whatever the order;
// the order variable makes indices agree with nvidia-smi's where there is none.
func (d *Driver) Env(devices []device.Device) []string {
	ids := make([]string, len(devices))
	for i, dev := range devices {
		ids[i] = dev.ID
		if !strings.HasPrefix(dev.ID, "GPU-") && !strings.HasPrefix(dev.ID, "MIG-") {
			ids[i] = fmt.Sprint(dev.Index)
		}
	}
	return []string{"CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=" + strings.Join(ids, ",")}
}

// fields are asked for in one query; every driver since 2020 knows them.
const fields = "index,uuid,name,pci.bus_id,driver_version,memory.total,memory.used,utilization.gpu,temperature.gpu," +
	"power.draw,power.limit,ecc.mode.current,ecc.errors.corrected.volatile.total,ecc.errors.uncorrected.volatile.total," +
	"ecc.errors.uncorrected.aggregate.total,mig.mode.current,compute_cap"

// recoveryField is asked for apart: old drivers refuse it, and it is the only
// snapshot of a chip that is stuck after a past fault while its counters are zero.
const recoveryField = "gpu_recovery_action"

func (d *Driver) query(ctx context.Context) ([]gpu, error) {
	out, err := d.ask(ctx, "--query-gpu="+fields, "--format=csv")
	if err != nil {
		return nil, err
	}
	gpus, err := parse(out)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", tool, err)
	}
	if len(gpus) > 0 {
		if out, err := d.ask(ctx, "--query-gpu=uuid,"+recoveryField, "--format=csv"); err == nil {
			mergeRecovery(gpus, out)
		}
	}
	for i := range gpus {
		gpus[i].judge()
	}
	return gpus, nil
}

// ask runs the tool within its own deadline. A tool stuck in the kernel cannot
// even be killed, so ask does not wait for it either.
func (d *Driver) ask(ctx context.Context, args ...string) ([]byte, error) {
	cause := fmt.Errorf("%s did not answer within %v", tool, d.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, d.Timeout, cause)
	defer cancel()
	type answer struct {
		out []byte
		err error
	}
	got := make(chan answer, 1)
	go func() {
		out, err := d.run(ctx, tool, args...)
		got <- answer{out, err}
	}()
	var a answer
	select {
	case a = <-got:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	switch {
	case a.err == nil:
		return a.out, nil
	case errors.Is(a.err, exec.ErrNotFound):
		return nil, fmt.Errorf("%s not found in PATH: %w", tool, device.ErrAbsent)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	raw := string(a.out)
	var exit *exec.ExitError
	if errors.As(a.err, &exit) {
		raw += string(exit.Stderr)
	}
	if strings.Contains(raw, "No devices were found") {
		return nil, nil
	}
	if strings.Contains(raw, "couldn't communicate with the NVIDIA driver") {
		return nil, fmt.Errorf("%s is installed, but no driver answers: load the driver, or pass the devices into this container: %.400q", tool, raw)
	}
	return nil, fmt.Errorf("run %s: %w: %.2000q", tool, a.err, raw)
}
