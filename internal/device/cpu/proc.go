package cpu

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
)

type cpuInfo struct {
	model      string
	processors int
	flags      []string // of the first processor, sorted
}

// armCores names cores whose /proc/cpuinfo has no model name, by implementer
// and part (the Main ID Register). Kunpeng hosts most Ascend chips.
var armCores = map[string]string{
	"0x48/0xd01": "HiSilicon TaiShan v110 (Kunpeng 920)",
	"0x48/0xd02": "HiSilicon TaiShan v120",
	"0x41/0xd0c": "Arm Neoverse N1",
	"0x41/0xd40": "Arm Neoverse V1",
	"0x41/0xd49": "Arm Neoverse N2",
	"0x41/0xd4f": "Arm Neoverse V2",
}

// parseCPUInfo reads /proc/cpuinfo of x86 and arm64.
func parseCPUInfo(text []byte) cpuInfo {
	var c cpuInfo
	first := map[string]string{}
	for line := range bytes.Lines(text) {
		key, value, ok := strings.Cut(string(line), ":")
		if !ok {
			continue
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if key == "processor" {
			if _, err := strconv.Atoi(value); err == nil {
				c.processors++
			}
			continue
		}
		if _, seen := first[key]; !seen {
			first[key] = value
		}
	}
	c.model = first["model name"]
	if implementer, part := first["CPU implementer"], first["CPU part"]; c.model == "" && implementer != "" {
		c.model = armCores[implementer+"/"+part]
		if c.model == "" {
			c.model = fmt.Sprintf("arm64 implementer %s part %s", implementer, part)
		}
	}
	if c.model == "" {
		c.model = "unknown"
	}
	flags := first["flags"] // x86
	if flags == "" {
		flags = first["Features"] // arm64
	}
	c.flags = strings.Fields(flags)
	slices.Sort(c.flags)
	c.flags = slices.Compact(c.flags)
	return c
}

// noted are the instruction sets worth listing, by the kernel's names.
var noted = []string{
	"amx_bf16", "amx_int8", "amx_tile", "avx", "avx2", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx512bw",
	"avx512dq", "avx512f", "avx512vl", "avx_vnni", "f16c", "fma",
	"asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2",
}

// capabilities follow from instruction sets. Every processor computes in
// float32; the others are listed where there are instructions for them.
var capabilities = map[string][]string{
	"bf16": {"avx512_bf16", "amx_bf16", "bf16"},
	"int8": {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"},
	"fp16": {"avx512_fp16", "asimdhp"},
}

func features(flags []string, arch string) []string {
	out := []string{"float32"}
	if arch != "" {
		out = append(out, arch)
	}
	for _, f := range noted {
		if slices.Contains(flags, f) {
			out = append(out, f)
		}
	}
	for word, any := range capabilities {
		if slices.ContainsFunc(any, func(f string) bool { return slices.Contains(flags, f) }) {
			out = append(out, word)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// memory is MemTotal and MemAvailable in bytes.
func (d *Driver) memory() (total, available int64, err error) {
	text, err := fs.ReadFile(d.root, "proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	return parseMemInfo(text)
}

func parseMemInfo(text []byte) (total, available int64, err error) {
	found := map[string]int64{}
	for line := range bytes.Lines(text) {
		key, rest, ok := strings.Cut(string(line), ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) != 2 || fields[1] != "kB" {
			continue
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/1024 {
			continue
		}
		found[key] = n * 1024
	}
	total, ok := found["MemTotal"]
	if !ok || total == 0 {
		return 0, 0, fmt.Errorf("no MemTotal in /proc/meminfo: %.200q", text)
	}
	available, ok = found["MemAvailable"]
	if !ok {
		available = found["MemFree"]
	}
	return total, min(available, total), nil
}

// cores is how many processors this process may use: those of its affinity
// mask, and no more than its cgroup's quota.
func (d *Driver) cores(online int) int {
	n := online
	if status, err := fs.ReadFile(d.root, "proc/self/status"); err == nil {
		if allowed, ok := parseAffinity(status); ok {
			n = min(n, allowed)
		}
	}
	if quota, ok := d.cpuQuota(); ok {
		n = min(n, max(int(quota), 1))
	}
	return n
}

// parseAffinity counts Cpus_allowed_list of /proc/self/status: "0-3,8".
func parseAffinity(status []byte) (int, bool) {
	for line := range bytes.Lines(status) {
		list, ok := strings.CutPrefix(string(line), "Cpus_allowed_list:")
		if !ok {
			continue
		}
		n := 0
		for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
			lo, hi, isRange := strings.Cut(part, "-")
			if !isRange {
				hi = lo
			}
			a, errA := strconv.Atoi(lo)
			b, errB := strconv.Atoi(hi)
			if errA != nil || errB != nil || a < 0 || b < a || b > 1<<20 {
				return 0, false
			}
			n += b - a + 1
		}
		return n, n > 0
	}
	return 0, false
}
