package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxConfigFile bounds a settings file, in bytes.
const maxConfigFile = 1 << 20

// sources are the sources of settings. They override the built-in settings in the order
// file, environment, flags.
type sources struct {
	hostname string
	file     string                      // path of the settings file
	fileMust bool                        // the file was named, so it must exist
	client   bool                        // a client may continue if it has no permission to read the file
	getenv   func(string) (string, bool) // os.LookupEnv
	flags    map[string]string           // by key; only those given
}

// origins maps each key to a description of the source of its value.
type origins map[string]string

// builtIn is the origin of built-in values.
const builtIn = "built in"

func envName(key string) string {
	return "SOCKETPLANE_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// loadSettings merges the sources; later ones override earlier ones. Errors name the
// source to correct, and are usage errors.
func loadSettings(src sources) (Settings, origins, error) {
	s := defaultSettings(src.hostname)
	from := origins{}
	table := settingTable()
	for _, e := range table {
		from[e.key] = builtIn
	}
	inFile, err := readSettingsFile(src, &s)
	if err != nil {
		return Settings{}, nil, usageError{err}
	}
	for _, e := range table {
		if inFile[e.key] {
			from[e.key] = src.file
		}
		if text, ok := src.getenv(e.env()); ok {
			if err := e.set(&s, text); err != nil {
				return Settings{}, nil, usagef("%s: %w", e.env(), err)
			}
			from[e.key] = e.env()
		}
		if text, ok := src.flags[e.key]; ok {
			if err := e.set(&s, text); err != nil {
				return Settings{}, nil, usagef("--%s: %w", e.flag, err)
			}
			from[e.key] = "--" + e.flag
		}
	}
	for _, e := range table {
		if e.check == nil {
			continue
		}
		if err := e.check(e.text(&s)); err != nil {
			return Settings{}, nil, usagef("%s (from %s): %w", e.key, from[e.key], err)
		}
	}
	if err := checkTogether(&s); err != nil {
		return Settings{}, nil, usageError{err}
	}
	s.tokenFileMust = s.Cluster.TokenFile != "" && from["cluster.token_file"] != builtIn
	return s, from, nil
}

// readSettingsFile decodes the file into s and returns the keys in the file.
func readSettingsFile(src sources, s *Settings) (map[string]bool, error) {
	f, err := os.Open(src.file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !src.fileMust:
		return nil, nil
	case errors.Is(err, fs.ErrPermission) && src.client && !src.fileMust:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("settings file: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err != nil {
		return nil, fmt.Errorf("settings file %s: %w", src.file, err)
	}
	if len(data) > maxConfigFile {
		return nil, fmt.Errorf("settings file %s is larger than %d bytes", src.file, maxConfigFile)
	}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(s); err != nil {
		return nil, describeTOML(src.file, err)
	}
	var tree map[string]map[string]any // the strict decoder above has checked this shape
	if err := toml.Unmarshal(data, &tree); err != nil {
		return nil, describeTOML(src.file, err)
	}
	keys := map[string]bool{}
	for table, values := range tree {
		for key := range values {
			keys[table+"."+key] = true
		}
	}
	return keys, nil
}

// describeTOML returns an error with file, line and key in one line.
func describeTOML(file string, err error) error {
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(strict.Errors) > 0 {
		first := strict.Errors[0]
		line, _ := first.Position()
		return fmt.Errorf("%s:%d: unknown key %q; the keys are shown by: socketplane agent run --print-config", file, line, strings.Join(first.Key(), "."))
	}
	if decode, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, column := decode.Position()
		why := strings.TrimPrefix(decode.Error(), "toml: ")
		// For a value of the wrong type, the library's message names our Go struct.
		if found, wanted, ok := strings.Cut(why, " into struct field "); ok {
			why = found + " into a " + wanted[strings.LastIndexByte(wanted, ' ')+1:]
		}
		if key := decode.Key(); len(key) > 0 {
			return fmt.Errorf("%s:%d:%d: key %q: %s", file, line, column, strings.Join(key, "."), why)
		}
		return fmt.Errorf("%s:%d:%d: %s", file, line, column, why)
	}
	return fmt.Errorf("%s: %w", file, err)
}

// printSettings prints every value with its source. The output is a valid settings file,
// except that secrets are masked.
func printSettings(w io.Writer, s Settings, from origins) error {
	for _, e := range settingTable() {
		value := e.text(&s)
		if e.secret && value != "" {
			value = "********"
		}
		switch p := e.field(&s).(type) {
		case *bool:
		case *[]string:
			value = fmt.Sprintf("%q", *p) // [] if there is none
			value = strings.ReplaceAll(value, `" "`, `", "`)
		default:
			value = fmt.Sprintf("%q", value)
		}
		if _, err := fmt.Fprintf(w, "%-46s # %s\n", e.key+" = "+value, from[e.key]); err != nil {
			return err
		}
	}
	return nil
}
