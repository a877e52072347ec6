package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarbert/internal/spec"
)

// Peak is a chip's product rate for one dtype.
type Peak struct {
	TFLOPS Range `json:"tflops"`
	// Sparse says that the figure is of 2:4 sparse products: the dense one is half of it.
	Sparse bool `json:"sparse,omitempty"`
}

// Dense is the rate of dense products, at a quantile of what is known of it.
func (p Peak) Dense(q float64) Rate {
	if p.Sparse {
		return Rate(p.TFLOPS.At(q) * 1e12 / 2)
	}
	return Rate(p.TFLOPS.At(q) * 1e12)
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
	MFU            Range           `json:"mfu"`        // in a step, of the dense peak
	Count          string          `json:"count"`      // how that MFU counts: "model" FLOPs, or "hardware" with recomputation
	Attention      string          `json:"attention"`  // "causal" or "full"
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

// clusterExample is a whole inventory, named where somebody needs one.
const clusterExample = "examples/clusters/llama3.yaml"

// ReadCluster reads an inventory file. What is wrong with it is a *spec.Error, with places.
func ReadCluster(path string) (Cluster, error) {
	var c Cluster
	doc, err := spec.ReadDocument(path, "inventory", clusterExample, &c)
	if err != nil {
		return Cluster{}, err
	}
	if doc.Err() == nil { // else what is missing may only be misspelt
		for _, p := range c.problems() {
			doc.Wrong(p.field, p.hint, "%s", p.what)
		}
	}
	return c, doc.Err()
}

// problem is one thing that is wrong with a description.
type problem struct{ field, what, hint string }

// Check says which fields are missing or cannot be.
func (c Cluster) Check() error {
	var errs []error
	for _, p := range c.problems() {
		errs = append(errs, fmt.Errorf("cluster %s: %s", c.Name, p.what))
	}
	return errors.Join(errs...)
}

func (c Cluster) problems() (out []problem) {
	bad := func(field, hint, format string, args ...any) {
		out = append(out, problem{field, fmt.Sprintf(format, args...), hint})
	}
	if c.Name == "" {
		bad("name", "add `name: …`", "name is missing")
	}
	if c.Vendor == "" || c.Device == "" {
		bad("vendor", "add both: vendor: nvidia, device: H100", "vendor %q, device %q: both are needed", c.Vendor, c.Device)
	}
	if c.Nodes <= 0 || c.DevicesPerNode <= 0 || c.SpareNodes < 0 || c.SpareNodes >= max(1, c.Nodes) {
		bad("nodes", "", "nodes %d, devices_per_node %d, spare_nodes %d: cannot be", c.Nodes, c.DevicesPerNode, c.SpareNodes)
	}
	if !(c.MemoryGiB > 0) || c.ReserveGiB < 0 || c.ReserveGiB >= c.MemoryGiB {
		bad("memory_gib", "memory of one device; reserve_gib is what runtime and libraries take of it", "memory_gib %g with reserve_gib %g: cannot be", c.MemoryGiB, c.ReserveGiB)
	}
	if len(c.Peak) == 0 {
		bad("peak", "add the rates of dense products: peak: {bfloat16: {tflops: 989}}", "peak is missing: tflops by dtype")
	}
	for _, dtype := range sortedKeys(c.Peak) {
		if err := c.Peak[dtype].TFLOPS.check("peak."+dtype+".tflops", true); err != nil {
			bad("peak."+dtype, "", "%v", err)
		}
	}
	if _, known := c.Peak[c.PeakDType]; !known && len(c.Peak) > 0 {
		bad("peak_dtype", "the dtype of the peak that the MFU is a share of", "peak_dtype %q has no peak", c.PeakDType)
	}
	if c.Attention != "causal" && c.Attention != "full" {
		bad("attention", "causal counts half of the square, full all of it", "attention %q: must say whether the MFU counts causal or full", c.Attention)
	}
	if c.Count != "model" && c.Count != "hardware" {
		bad("count", "model counts no recomputation, hardware does", "count %q: must say whether the MFU counts model or hardware FLOPs", c.Count)
	}
	if err := c.links().check(); err != nil {
		bad("links", "", "%v", err)
	}
	if c.MFU.High > 1 {
		bad("mfu", "a share, as 0.4", "mfu %g is above 1", c.MFU.High)
	}
	if c.PowerWatts < 0 {
		bad("power_watts", "0 = not known", "power_watts %g: must not be negative", c.PowerWatts)
	}
	for _, f := range []struct {
		name string
		r    Range
		pos  bool
	}{
		{"mfu", c.MFU, true}, {"hazard", c.Hazard, true}, {"save_seconds", c.Save, true}, {"repair_factor", c.RepairFactor, true},
		{"restart_seconds.detect", c.Restart.Detect, false}, {"restart_seconds.place", c.Restart.Place, false},
		{"restart_seconds.init", c.Restart.Init, false}, {"restart_seconds.load", c.Restart.Load, false},
		{"drift", c.Drift, false}, {"no_convergence", c.NoConvergence, false}, {"queue_hours", c.Queue, false}, {"price_per_device_hour", c.Price, false},
	} {
		if err := f.r.check(f.name, f.pos); err != nil {
			bad(f.name, "a number, or {low: …, high: …, source: …}", "%v", err)
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// vague lists what is not known of a cluster well: ranges wider than half again, claims, and what is not given.
func (c Cluster) vague(dtype string) []string {
	var out []string
	for _, f := range []struct {
		name string
		r    Range
	}{
		{c.PeakDType + " peak in TFLOP/s", c.Peak[c.PeakDType].TFLOPS}, {"MFU", c.MFU}, {"interruptions per million device-hours", c.Hazard},
		{"chance of no usable model", c.NoConvergence},
	} {
		if f.r.Spread() < 1.5 && !f.r.Claim || f.r.High == 0 {
			continue
		}
		s := fmt.Sprintf("%s: taken as %v", f.name, f.r)
		if f.r.Claim {
			s += ", from a vendor's claim"
		}
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
