package ascend

import (
	"strings"
	"testing"

	"tarbert/internal/device"
)

func TestRemedy(t *testing.T) {
	var d Driver
	for code, want := range map[string]device.Remedy{
		"80E01801": device.RemedyProcess, "80E18005": device.RemedyReset, "0x80e18402": device.RemedyIsolate, "80C98009": device.RemedyRetry,
		"80818C00": device.RemedyIsolate, "81078603": device.RemedyNone, "8C204E00": device.RemedyProcess, "8C17A005": device.RemedyReset,
		"A2301001": device.RemedyIsolate, // on two lists: the more serious one
		"FFFFFFFF": device.RemedyUnknown, "": device.RemedyUnknown, "code": device.RemedyUnknown,
	} {
		if got := d.Remedy(code); got != want {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
	}
	known := 0
	for line := range strings.Lines(faultLevels) {
		code, _, _ := strings.Cut(line, ",")
		if d.Remedy(code) != device.RemedyUnknown {
			known++
		}
	}
	if known != 802 {
		t.Errorf("%d codes have a remedy, want all 802", known)
	}
}
