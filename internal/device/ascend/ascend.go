package ascend

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"tarbert/internal/device"
)

const tool = "npu-smi"

// Driver reads the NPUs of one node.
type Driver struct {
	// Timeout is each probe's own deadline. npu-smi is slow on a node of 16 dies.
	Timeout time.Duration
	// Now stamps samples.
	Now func() time.Time

	run device.Run
}

var _ device.Driver = (*Driver)(nil)

// New makes a driver that runs the vendor's tool through run.
func New(run device.Run) *Driver {
	return &Driver{Timeout: 30 * time.Second, Now: time.Now, run: run}
}

// Vendor implements device.Driver.
func (d *Driver) Vendor() device.Vendor { return device.Ascend }

// Detect implements device.Driver. Index is the number that
// ASCEND_RT_VISIBLE_DEVICES counts: the Phy-ID on A3, the Device column on
// 310, the logic id of `info -m` on A2 (the NPU id where that is not told).
func (d *Driver) Detect(ctx context.Context) ([]device.Device, error) {
	chips, err := d.chips(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]device.Device, len(chips))
	for i, c := range chips {
		out[i] = device.Device{
			ID: c.id(), Vendor: device.Ascend, Model: c.name, Index: c.index, Memory: c.total,
			Features: c.features(), Health: c.health(), Detail: c.word,
		}
	}
	return out, nil
}

// Sample implements device.Driver.
func (d *Driver) Sample(ctx context.Context, ids []string) ([]device.Sample, error) {
	chips, err := d.chips(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string]chip{}
	for _, c := range chips {
		byID[c.id()] = c
	}
	at := d.Now()
	out := make([]device.Sample, len(ids))
	for i, id := range ids {
		c, ok := byID[id]
		if !ok {
			out[i] = device.Sample{ID: id, At: at, Health: device.Unknown, Detail: tool + " does not list it"}
			continue
		}
		out[i] = device.Sample{ID: id, At: at, Health: c.health(), Detail: c.word, Temperature: c.temperature, Power: c.power, Utilization: c.busy}
		if c.total > 0 {
			used := c.used
			out[i].MemoryUsed = &used
		}
	}
	return out, nil
}

// Env implements device.Driver.
func (d *Driver) Env(devices []device.Device) []string {
	ids := make([]string, len(devices))
	for i, dev := range devices {
		ids[i] = strconv.Itoa(dev.Index)
	}
	return []string{"ASCEND_RT_VISIBLE_DEVICES=" + strings.Join(ids, ",")}
}

func (d *Driver) chips(ctx context.Context) ([]chip, error) {
	out, err := d.ask(ctx, "info")
	if err != nil {
		return nil, err
	}
	chips, err := parseInfo(out)
	if errors.Is(err, errLayout) {
		// The 950's table is not known, its chip map is.
		if m, mapErr := d.ask(ctx, "info", "-m"); mapErr == nil {
			if listed, mapErr := parseMap(m); mapErr == nil && len(listed) > 0 && listed[0].generation == gen950 {
				return listed, nil
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s info: %w", tool, err)
	}
	if len(chips) > 0 && chips[0].generation == genA2 {
		if m, err := d.ask(ctx, "info", "-m"); err == nil {
			if listed, err := parseMap(m); err == nil {
				takeLogicIDs(chips, listed)
			}
		}
	}
	return chips, nil
}

// takeLogicIDs gives chips the index that `info -m` tells.
func takeLogicIDs(chips, listed []chip) {
	logic := map[string]int{}
	for _, c := range listed {
		logic[c.id()] = c.index
	}
	for i := range chips {
		if n, ok := logic[chips[i].id()]; ok {
			chips[i].index = n
		}
	}
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
	raw := string(a.out)
	var exit *exec.ExitError
	if errors.As(a.err, &exit) {
		raw += string(exit.Stderr)
	}
	switch {
	case errors.Is(a.err, exec.ErrNotFound):
		return nil, fmt.Errorf("%s not found in PATH: %w", tool, device.ErrAbsent)
	case a.err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case strings.Contains(raw, "ret is -8005"):
		return nil, fmt.Errorf("the NPUs are occupied by another container or not mounted into this one (dcmi -8005): %.400q", raw)
	case strings.Contains(raw, "ret is -8020"):
		return nil, fmt.Errorf("the NPUs are occupied by another container (dcmi -8020): %.400q", raw)
	case a.err != nil:
		return nil, fmt.Errorf("run %s: %w: %.2000q", tool, a.err, raw)
	}
	return a.out, nil
}
