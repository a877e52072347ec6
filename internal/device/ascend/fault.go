package ascend

import (
	_ "embed" // of the levels
	"strings"

	"tarbert/internal/device"
)

// faultLevels is MindCluster's faultCode.json (Ascend/mind-cluster,
// component/ascend-device-plugin/build, 26.1.0) as code, level: 802 codes. Where
// a code is on two lists the more serious one counts, as the vendor's plug-in has it.
//
//go:embed fault_levels.csv
var faultLevels string

var _ device.Classifier = (*Driver)(nil)

// Remedy implements device.Classifier for Ascend fault codes ("80E01801").
func (*Driver) Remedy(code string) device.Remedy {
	code = strings.ToUpper(strings.TrimPrefix(strings.ToLower(strings.TrimSpace(code)), "0x"))
	if code == "" || strings.ContainsAny(code, ",\n") {
		return device.RemedyUnknown
	}
	_, rest, found := strings.Cut("\n"+faultLevels, "\n"+code+",")
	if !found {
		return device.RemedyUnknown
	}
	level, _, _ := strings.Cut(rest, ",")
	switch level {
	case "NotHandleFault", "SubHealthFault": // the latter is by policy, and ours is to go on
		return device.RemedyNone
	case "RestartRequest":
		return device.RemedyRetry
	case "RestartBusiness":
		return device.RemedyProcess
	case "PreSeparateNPU":
		return device.RemedyDrain
	case "FreeRestartNPU", "RestartNPU":
		return device.RemedyReset
	case "SeparateNPU", "ManuallySeparateNPU":
		return device.RemedyIsolate
	}
	return device.RemedyUnknown
}
