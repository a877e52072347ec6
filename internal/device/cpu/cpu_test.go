package cpu

import (
	"errors"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"tarbert/internal/device"
)

const x86 = `processor	: 0
model name	: Intel(R) Xeon(R) Processor
flags		: fpu sse avx2 fma avx512f avx512_vnni amx_bf16

processor	: 1
model name	: Intel(R) Xeon(R) Processor
flags		: fpu sse avx2 fma avx512f avx512_vnni amx_bf16
`

const kunpeng = `processor	: 0
BogoMIPS	: 200.00
Features	: fp asimd asimdhp asimddp
CPU implementer	: 0x48
CPU part	: 0xd01

processor	: 1
Features	: fp asimd asimdhp asimddp
CPU implementer	: 0x48
CPU part	: 0xd01
`

const meminfo = "MemTotal:       8000000 kB\nMemFree:        100 kB\nMemAvailable:   6000000 kB\n"

// machine is a file system with the base files and what more says.
func machine(cpuinfo string, more map[string]string) fstest.MapFS {
	m := fstest.MapFS{
		"proc/cpuinfo": {Data: []byte(cpuinfo)}, "proc/meminfo": {Data: []byte(meminfo)},
	}
	for name, text := range more {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func TestDetect(t *testing.T) {
	eight := strings.Repeat("processor : 1\n", 8)
	const all = 8000000 * 1024
	tests := []struct {
		name   string
		root   fs.FS
		arch   string
		model  string
		cores  int
		memory int64
		has    []string
		hasNot []string
	}{
		{"x86", machine(x86, nil), "amd64", "Intel(R) Xeon(R) Processor", 2, all, []string{"float32", "avx512f", "fma", "bf16", "int8"}, []string{"fp16", "sse"}},
		{"kunpeng", machine(kunpeng, nil), "arm64", "HiSilicon TaiShan v110 (Kunpeng 920)", 2, all, []string{"float32", "asimd", "int8", "fp16"}, []string{"bf16"}},
		{"strange arm", machine("processor : 0\nCPU implementer : 0x99\nCPU part : 0x1\n", nil), "arm64", "arm64 implementer 0x99 part 0x1", 1, all, []string{"float32"}, []string{"int8"}},
		{"affinity", machine(eight, map[string]string{"proc/self/status": "Name:\tx\nCpus_allowed_list:\t0-1,7\n"}), "", "unknown", 3, all, nil, nil},
		{"cgroup v2", machine(eight, map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
			"sys/fs/cgroup/a/b/memory.max": "1073741824\n", "sys/fs/cgroup/memory.max": "max\n"}), "", "unknown", 2, 1 << 30, nil, nil},
		{"cgroup v1", machine(eight, map[string]string{
			"proc/self/cgroup": "4:memory:/x\n1:cpu,cpuacct:/x\n", "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
			"sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n"}), "", "unknown", 1, 2 << 30, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := NewAt(tt.root, tt.arch, time.Now).Detect(t.Context())
			if err != nil || len(got) != 1 {
				t.Fatalf("%d devices, %v", len(got), err)
			}
			d := got[0]
			if d.ID != ID || d.Vendor != device.CPU || d.Health != device.Healthy || d.Model != tt.model || d.Cores != tt.cores || d.Memory != tt.memory {
				t.Errorf("device %+v; want %s, %d cores, %d bytes", d, tt.model, tt.cores, tt.memory)
			}
			for _, f := range tt.has {
				if !slices.Contains(d.Features, f) {
					t.Errorf("features %v lack %s", d.Features, f)
				}
			}
			for _, f := range tt.hasNot {
				if slices.Contains(d.Features, f) {
					t.Errorf("features %v have %s", d.Features, f)
				}
			}
		})
	}
}

func TestUnreadableMachineIsAnError(t *testing.T) {
	for name, root := range map[string]fs.FS{
		"nothing":      fstest.MapFS{},
		"no processor": machine("hello\n", nil),
		"no memory":    fstest.MapFS{"proc/cpuinfo": {Data: []byte(x86)}, "proc/meminfo": {Data: []byte("MemTotal: -5 kB\n")}},
	} {
		got, err := NewAt(root, "amd64", time.Now).Detect(t.Context())
		if err == nil || errors.Is(err, device.ErrAbsent) {
			t.Errorf("%s: %v, %v; want an error", name, got, err)
		}
	}
}

func TestSample(t *testing.T) {
	at := time.Unix(5, 0)
	got, err := NewAt(machine(x86, nil), "amd64", func() time.Time { return at }).Sample(t.Context(), []string{"cpu", "gpu"})
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	if s := got[0]; s.MemoryUsed == nil || *s.MemoryUsed != 2000000*1024 || s.Health != device.Healthy || !s.At.Equal(at) || s.Utilization != nil {
		t.Errorf("sample %+v", s)
	}
	if s := got[1]; s.Health != device.Unknown || s.MemoryUsed != nil {
		t.Errorf("sample of no device: %+v", s)
	}
}

// The driver on the machine at hand.
func TestThisMachine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	got, err := New().Detect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := got[0]; d.Cores < 1 || d.Cores > runtime.NumCPU() || d.Memory < 1<<20 || d.Model == "" {
		t.Errorf("device %+v; the runtime sees %d processors", d, runtime.NumCPU())
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{x86, kunpeng, meminfo, "Cpus_allowed_list:\t0-1,7\n", "4:memory:/x\n0::/a\n", "Cpus_allowed_list: 9-1\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c := parseCPUInfo(b); c.processors < 0 || c.model == "" {
			t.Errorf("cpu info %+v", c)
		}
		if total, available, err := parseMemInfo(b); err == nil && (total <= 0 || available < 0 || available > total) {
			t.Errorf("memory %d of %d", available, total)
		}
		if n, ok := parseAffinity(b); ok && n < 1 {
			t.Errorf("affinity %d", n)
		}
		for _, p := range parseCgroups(b) {
			if !strings.HasPrefix(p, "/") || strings.Contains(p, "..") && !strings.Contains(string(b), "...") {
				t.Errorf("cgroup path %q", p)
			}
		}
	})
}
