package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// Peak is a chip's product rate for one dtype.
type Peak struct {
	TFLOPS float64 `json:"tflops"`
	// Sparse says that the figure is of 2:4 sparse products: the dense one is half of it.
	Sparse bool `json:"sparse,omitempty"`
}

// Dense is the rate of dense products.
func (p Peak) Dense() Rate {
	if p.Sparse {
		return Rate(p.TFLOPS * 1e12 / 2)
	}
	return Rate(p.TFLOPS * 1e12)
}

// Cluster is a pool described by hand: examples/clusters. What is not known is a
// wide range with its reason as source; nothing has a default.
type Cluster struct {
	Name           string          `json:"name"`
	Vendor         string          `json:"vendor"`
	Device         string          `json:"device"`
	Site           string          `json:"site"`
	Nodes          int             `json:"nodes"`
	DevicesPerNode int             `json:"devices_per_node"`
	SpareNodes     int             `json:"spare_nodes"`
	MemoryGiB      float64         `json:"memory_gib"`
	ReserveGiB     float64         `json:"reserve_gib"` // what runtime and libraries take
	Peak           map[string]Peak `json:"peak"`        // by dtype
	Links          ClusterLinks    `json:"links"`
	MFU            Range           `json:"mfu"`        // in a step, of the dense peak, model FLOPs
	Attention      string          `json:"attention"`  // how that MFU counts: "causal" or "full"
	PeakDType      string          `json:"peak_dtype"` // and over which peak
	Hazard         Range           `json:"hazard"`     // interruptions per million device-hours
	Save           Range           `json:"save_seconds"`
	Restart        RestartCost     `json:"restart_seconds"`
	RepairFactor   Range           `json:"repair_factor"`
	Drift          Range           `json:"drift"`
	NoConvergence  Range           `json:"no_convergence"`
	Queue          Range           `json:"queue_hours"`
	PowerWatts     float64         `json:"power_watts"`           // of a device with its share of the node; 0 = not known
	Price          Range           `json:"price_per_device_hour"` // 0 = not known
}

// ClusterLinks is Links in GB/s.
type ClusterLinks struct {
	Domain  int     `json:"domain"`
	Inside  float64 `json:"inside_gbs"`
	Across  float64 `json:"across_gbs"`
	Overlap Range   `json:"overlap"`
}

func (c Cluster) links() Links {
	return Links{Domain: c.Links.Domain, Inside: Bandwidth(c.Links.Inside * 1e9), Across: Bandwidth(c.Links.Across * 1e9), Overlap: c.Links.Overlap}
}

// DecodeCluster reads a cluster from JSON (or YAML turned into it), strictly.
func DecodeCluster(b []byte) (Cluster, error) {
	var c Cluster
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Cluster{}, fmt.Errorf("cluster: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Cluster{}, errors.New("cluster: something follows the description")
	}
	if err := c.Check(); err != nil {
		return Cluster{}, err
	}
	return c, nil
}

// Check says which fields are missing or cannot be.
func (c Cluster) Check() error {
	if c.Name == "" {
		return errors.New("cluster: name is missing")
	}
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("cluster %s: "+format, append([]any{c.Name}, args...)...))
	}
	if c.Nodes <= 0 || c.DevicesPerNode <= 0 || c.SpareNodes < 0 || c.SpareNodes >= max(1, c.Nodes) {
		bad("%d nodes of %d devices with %d spares: cannot be", c.Nodes, c.DevicesPerNode, c.SpareNodes)
	}
	if !(c.MemoryGiB > 0) || c.ReserveGiB < 0 || c.ReserveGiB >= c.MemoryGiB {
		bad("memory_gib %g with %g reserved: cannot be", c.MemoryGiB, c.ReserveGiB)
	}
	if len(c.Peak) == 0 {
		bad("peak is missing: tflops by dtype")
	}
	for _, dtype := range sortedKeys(c.Peak) {
		if p := c.Peak[dtype].TFLOPS; !(p > 0) || math.IsInf(p, 0) {
			bad("peak.%s.tflops is %g: must be positive", dtype, p)
		}
	}
	if _, known := c.Peak[c.PeakDType]; !known {
		bad("peak_dtype %q has no peak", c.PeakDType)
	}
	if c.Attention != "causal" && c.Attention != "full" {
		bad("attention %q: must say whether the MFU counts causal or full", c.Attention)
	}
	if err := c.links().check(); err != nil {
		bad("%w", err)
	}
	if c.MFU.High > 1 {
		bad("mfu %g is above 1", c.MFU.High)
	}
	if c.PowerWatts < 0 || math.IsNaN(c.PowerWatts) {
		bad("power_watts %g: must not be negative", c.PowerWatts)
	}
	for _, f := range []struct {
		name string
		r    Range
		pos  bool
	}{
		{"mfu", c.MFU, true}, {"hazard", c.Hazard, true}, {"save_seconds", c.Save, true}, {"repair_factor", c.RepairFactor, true},
		{"drift", c.Drift, false}, {"no_convergence", c.NoConvergence, false}, {"queue_hours", c.Queue, false}, {"price_per_device_hour", c.Price, false},
	} {
		if err := f.r.check(f.name, f.pos); err != nil {
			bad("%w", err)
		}
	}
	return errors.Join(errs...)
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Clause is one rule of the policy: it forbids what it matches, until a waiver.
type Clause struct {
	ID      string    `json:"id"`
	Text    string    `json:"text"`
	Stage   string    `json:"stage"`   // "train", "serve"; empty = all
	Vendors []string  `json:"vendors"` // forbidden; empty = all
	Sites   []string  `json:"sites"`   // where; empty = everywhere
	From    time.Time `json:"from,omitzero"`
	Until   time.Time `json:"until,omitzero"`
	Waiver  Waiver    `json:"waiver,omitzero"`
}

// Waiver lifts a clause. It goes into the certificate.
type Waiver struct {
	By    string    `json:"by"`
	Until time.Time `json:"until"`
	Why   string    `json:"why"`
}

// Allowed applies the policy to one use: refusal is the clause that forbids it
// (empty if none), waivers the clauses that would have, each with who lifted it.
func Allowed(policy []Clause, stage, vendor, site string, from, to time.Time) (refusal string, waivers []string) {
	for _, c := range policy {
		matches := (c.Stage == "" || c.Stage == stage) && (len(c.Vendors) == 0 || slices.Contains(c.Vendors, vendor)) &&
			(len(c.Sites) == 0 || slices.Contains(c.Sites, site)) && (c.From.IsZero() || to.After(c.From)) && (c.Until.IsZero() || from.Before(c.Until))
		switch {
		case !matches:
		case c.Waiver.By != "" && !to.After(c.Waiver.Until):
			waivers = append(waivers, fmt.Sprintf("%s waived by %s until %s: %s", c.ID, c.Waiver.By, day(c.Waiver.Until), c.Waiver.Why))
		case c.Waiver.By != "":
			return fmt.Sprintf("policy %s: %s (the waiver by %s ends %s, before %s)", c.ID, c.Text, c.Waiver.By, day(c.Waiver.Until), day(to)), waivers
		default:
			return fmt.Sprintf("policy %s: %s", c.ID, c.Text), waivers
		}
	}
	return "", waivers
}

// vague lists the ranges of a cluster that are wider than a factor of three.
func (c Cluster) vague() []string {
	var out []string
	for _, f := range []struct {
		name string
		r    Range
	}{{"MFU", c.MFU}, {"interruptions per million device-hours", c.Hazard}} {
		if f.r.Spread() < 1.5 {
			continue
		}
		s := fmt.Sprintf("%s: taken as %v", f.name, f.r)
		if f.r.Source != "" {
			s += " (" + strings.TrimSpace(f.r.Source) + ")"
		}
		out = append(out, s)
	}
	if c.Price.High == 0 {
		out = append(out, "price: not given")
	}
	if c.PowerWatts == 0 {
		out = append(out, "power: not given")
	}
	return out
}
