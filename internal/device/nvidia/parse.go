package nvidia

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"tarbert/internal/device"
)

// gpu is one row, by column name without its unit.
type gpu struct {
	values map[string]string
	health device.Health
	detail string
}

// parse reads --format=csv output. Columns are known by the header; a row
// whose width differs is refused with the raw text.
func parse(out []byte) ([]gpu, error) {
	if len(bytes.TrimSpace(out)) == 0 || bytes.Contains(out, []byte("No devices were found")) {
		return nil, nil
	}
	if bytes.Contains(out, []byte("couldn't communicate with the NVIDIA driver")) {
		return nil, fmt.Errorf("no driver answers: load the driver, or pass the devices into this container: %.400q", out)
	}
	r := csv.NewReader(bytes.NewReader(out))
	r.TrimLeadingSpace = true
	r.FieldsPerRecord = -1
	r.LazyQuotes = true
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("%w: %.2000q", err, out)
	}
	names := make([]string, len(header))
	units := make([]string, len(header))
	for i, h := range header {
		names[i], units[i], _ = strings.Cut(strings.TrimSpace(h), " ")
		units[i] = strings.Trim(units[i], "[] ")
	}
	if !slices.Contains(names, "uuid") {
		return nil, fmt.Errorf("unknown header: %.2000q", out)
	}
	var gpus []gpu
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return gpus, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %.2000q", err, out)
		}
		if len(row) != len(names) {
			return nil, fmt.Errorf("a row has %d columns of %d: %.2000q", len(row), len(names), out)
		}
		g := gpu{values: map[string]string{}}
		for i, v := range row {
			g.values[names[i]] = strings.TrimSpace(v)
		}
		gpus = append(gpus, g)
	}
}

// mergeRecovery adds the recovery action to the rows of the same UUID. Output
// that cannot be read adds nothing: the field is unknown then.
func mergeRecovery(gpus []gpu, out []byte) {
	rows, err := parse(out)
	if err != nil {
		return
	}
	for _, row := range rows {
		for i := range gpus {
			if id := gpus[i].values["uuid"]; id != "" && id == row.values["uuid"] {
				gpus[i].values[recoveryField] = row.values[recoveryField]
			}
		}
	}
}

// id is the UUID; a lost GPU may not tell it, and is known by its bus then.
func (g gpu) id() string {
	if id := g.text("uuid"); id != "" {
		return id
	}
	if bus := g.text("pci.bus_id"); bus != "" {
		return bus
	}
	return "index " + g.values["index"]
}

// text is a value that the tool could read, else empty.
func (g gpu) text(name string) string {
	v := g.values[name]
	if strings.HasPrefix(v, "[") || v == "N/A" {
		return ""
	}
	return v
}

func (g gpu) index() int {
	n, err := strconv.Atoi(g.text("index"))
	if err != nil {
		return -1
	}
	return n
}

// number is a value with one of these units ("" = none), or nil.
func (g gpu) number(name string, units ...string) *float64 {
	v, unit, _ := strings.Cut(g.text(name), " ")
	x, err := strconv.ParseFloat(v, 64)
	if err != nil || math.IsNaN(x) || math.IsInf(x, 0) || !slices.Contains(units, strings.TrimSpace(unit)) {
		return nil
	}
	return &x
}

// bytes is a memory size; 0 = not known.
func (g gpu) bytes(name string) int64 {
	x := g.number(name, "MiB")
	if x == nil || *x < 0 || *x > 1<<40 {
		return 0
	}
	return int64(*x) << 20
}

// judge settles the health from the row.
func (g *gpu) judge() {
	g.health, g.detail = device.Healthy, ""
	var lost, unread []string
	for name, v := range g.values {
		switch v {
		case "[GPU is lost]":
			lost = append(lost, name)
		case "[Unknown Error]", "[GPU requires reset]":
			unread = append(unread, name+": "+v)
		}
	}
	slices.Sort(unread)
	switch action := g.text(recoveryField); {
	case len(lost) > 0:
		g.health, g.detail = device.Unhealthy, "GPU is lost"
		return
	case action != "" && action != "None":
		g.health, g.detail = device.Unhealthy, "recovery action: "+action
		return
	}
	if n := g.number("ecc.errors.uncorrected.volatile.total", ""); n != nil && *n > 0 {
		g.health, g.detail = device.Unhealthy, fmt.Sprintf("%.0f uncorrected ECC errors since the driver was loaded", *n)
		return
	}
	if len(unread) > 0 {
		g.health, g.detail = device.Unknown, strings.Join(unread, "; ")
	}
}

// features follow from the compute capability (CUDA Programming Guide,
// "Arithmetic Instructions" and "Tensor Cores").
func (g gpu) features() []string {
	var out []string
	major, minor, ok := strings.Cut(g.text("compute_cap"), ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	if ok && errA == nil && errB == nil && a > 0 && a < 100 && b >= 0 && b < 10 {
		out = append(out, "float32", fmt.Sprintf("sm_%d%d", a, b))
		for _, f := range []struct {
			name string
			from int // capability × 10
		}{{"fp16", 53}, {"int8", 61}, {"bf16", 80}, {"fp8", 89}, {"fp4", 100}} {
			if 10*a+b >= f.from {
				out = append(out, f.name)
			}
		}
	}
	if g.text("mig.mode.current") == "Enabled" {
		out = append(out, "mig")
	}
	return out
}
