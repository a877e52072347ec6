package cpu

import (
	"bytes"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// cgroups are this process's group paths: the unified one (v2) under "", the
// others (v1) under their controller.
func (d *Driver) cgroups() map[string]string {
	text, err := fs.ReadFile(d.root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	return parseCgroups(text)
}

// parseCgroups reads lines of "hierarchy:controllers:path".
func parseCgroups(text []byte) map[string]string {
	out := map[string]string{}
	for line := range bytes.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(string(line)), ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			out[controller] = path.Clean(parts[2])
		}
	}
	return out
}

// upwards visits a group's folder and all above it: a parent's limit binds its
// children. Inside a container the path may be the host's and not be there;
// then the mount's root is the container's own group.
func upwards(base, group string, visit func(dir string)) {
	for p := group; ; p = path.Dir(p) {
		visit(path.Join(base, p))
		if p == "/" || p == "." {
			return
		}
	}
}

// memoryLimit is the tightest memory limit in bytes.
func (d *Driver) memoryLimit() (int64, bool) {
	groups := d.cgroups()
	best, found := int64(0), false
	take := func(file string) {
		n, err := strconv.ParseInt(strings.TrimSpace(d.text(file)), 10, 64) // "max" is no number
		if err == nil && n > 0 && (!found || n < best) {
			best, found = n, true
		}
	}
	if g, ok := groups[""]; ok {
		upwards("sys/fs/cgroup", g, func(dir string) { take(path.Join(dir, "memory.max")) })
	}
	if g, ok := groups["memory"]; ok {
		upwards("sys/fs/cgroup/memory", g, func(dir string) { take(path.Join(dir, "memory.limit_in_bytes")) })
	}
	return best, found
}

// cpuQuota is the tightest processor quota, in processors.
func (d *Driver) cpuQuota() (float64, bool) {
	groups := d.cgroups()
	best, found := 0.0, false
	take := func(quota, period string) {
		q, errQ := strconv.ParseFloat(strings.TrimSpace(quota), 64) // "max" and -1 are no limit
		p, errP := strconv.ParseFloat(strings.TrimSpace(period), 64)
		// Written so that NaN is no limit either.
		if errQ == nil && errP == nil && q > 0 && p > 0 && q/p < 1<<20 && (!found || q/p < best) {
			best, found = q/p, true
		}
	}
	if g, ok := groups[""]; ok {
		upwards("sys/fs/cgroup", g, func(dir string) {
			if quota, period, ok := strings.Cut(strings.TrimSpace(d.text(path.Join(dir, "cpu.max"))), " "); ok {
				take(quota, period)
			}
		})
	}
	if g, ok := groups["cpu"]; ok {
		upwards("sys/fs/cgroup/cpu", g, func(dir string) {
			take(d.text(path.Join(dir, "cpu.cfs_quota_us")), d.text(path.Join(dir, "cpu.cfs_period_us")))
		})
	}
	return best, found
}

// text is a small file's content; empty if it cannot be read.
func (d *Driver) text(name string) string {
	b, err := fs.ReadFile(d.root, strings.TrimPrefix(name, "/"))
	if err != nil {
		return ""
	}
	return string(b)
}
