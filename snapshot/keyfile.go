package snapshot

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// PublicKeySuffix is added to the path of a private key for its public key.
const PublicKeySuffix = ".pub"

// WriteKeyFiles writes k to path with mode 0600, and its public key to path
// with PublicKeySuffix. Neither file may exist: a key that is overwritten is
// lost.
func WriteKeyFiles(path string, k *PrivateKey) error {
	private, err := k.PEM()
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path + PublicKeySuffix); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s exists already; choose another name or remove it", path+PublicKeySuffix)
	}
	if err := writeNew(path, private, 0o600); err != nil {
		return err
	}
	return writeNew(path+PublicKeySuffix, k.Public().PEM(), 0o644)
}

func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// ReadPrivateKey reads a private key from a file that nobody but its owner may
// read or write. The mode is that of the file that is read, so a link cannot
// be swapped in between.
func ReadPrivateKey(path string) (*PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	mode := info.Mode()
	if !mode.IsRegular() {
		return nil, fmt.Errorf("%s: %w: it is no regular file", path, ErrKeyMode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	if _, err := ParsePublicKey(text); err == nil {
		return nil, fmt.Errorf("%s: %w: it is a public key; name the private one", path, ErrKey)
	}
	if mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: %w: its mode is %v; run: chmod 600 %s", path, ErrKeyMode, mode, path)
	}
	k, err := ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// ReadPublicKey reads a public key from a file.
func ReadPublicKey(path string) (PublicKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return PublicKey{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return PublicKey{}, err
	}
	k, err := ParsePublicKey(text)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}
