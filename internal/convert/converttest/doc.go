// Package converttest plants faults in a converted model, for tests of what
// must notice them: the weights still load, every file still agrees with every
// other, and only the numbers are wrong.
package converttest
