// Package converttest plants faults in model directories, for tests of what must
// notice them. Damage makes a converted model wrong whose weights still load and
// whose files still agree with each other: only the numbers are wrong. DamageFiles
// does what copies, repackaging and old tools do to the files of a source or of a
// conversion.
package converttest
