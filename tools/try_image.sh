#!/usr/bin/env bash
# Build the Dockerfile with buildah, without any registry of images, and run what came of it: `tools/try_image.sh`.
#
# Two things stand in for others. The base image is this machine's own Python, of the Dockerfile's version, with the
# programs that the build runs and the libraries they need. And of requirements/torch.txt only the smallest package
# is installed: gigabytes would show nothing more, and none of the commands that are tried imports torch.
# Everything else is real: every instruction, the hashes of the other packages, the wheel, the user.
#
# With --twice it is built a second time from nothing, and the layers have to be the same to the last bit.
# Where it cannot be built at all, the exit code is 77.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
tag=localhost/mlworker-try
impossible() { echo "$*" >&2; exit 77; }
command -v buildah > /dev/null || impossible "buildah is not installed: apt-get install buildah"
# No container runtime is needed, and none of the kernel's features that are closed to builds in containers.
export BUILDAH_ISOLATION=chroot

wanted=$(sed -n 's/^ARG PYTHON=[^:]*:\([0-9]*\.[0-9]*\).*/\1/p' Dockerfile)
here=$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info[:2]))')
[[ $wanted == "$here" ]] || impossible "the Dockerfile wants Python $wanted, $python is $here"

scratch=$(mktemp -d)
base='' container=''
cleanup() {
    for one in $base $container; do buildah rm "$one" > /dev/null; done
    rm -rf "$scratch"
}
trap cleanup EXIT

# ---- the base image

base=$(buildah from scratch) && root=$(buildah mount "$base") || impossible "buildah may not build here"

# Copies files with the libraries they are linked to, to where they are here.
copy() {
    local file library
    for file in "$@"; do
        install -D "$(readlink -f "$file")" "$root/usr/${file#/usr/}"
        for library in $(ldd "$file" | grep -o '/[^ ]*'); do
            [[ -e $root/$library ]] || install -D "$(readlink -f "$library")" "$root/$library"
        done
    done
}

mkdir -p "$root"/usr/{bin,sbin,lib,lib64,local} "$root"/{etc,tmp,root,proc,sys,dev,var/tmp}
chmod 1777 "$root/tmp"
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
for program in sh env find touch rm ls groupadd useradd ldconfig; do
    copy "/usr/$([[ -x /usr/bin/$program ]] && echo bin || echo sbin)/$program"
done
prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
tar --create --directory "$prefix" --exclude '__pycache__' --exclude 'site-packages/*' --exclude 'lib/python*/test' \
    bin lib | tar --extract --directory "$root/usr/local"
# What Python's own modules are linked to.
for module in "$prefix"/lib/python"$here"/lib-dynload/*.so "$prefix"/lib/libpython*.so*; do
    for library in $(ldd "$module" | grep -o '/[^ ]*'); do
        [[ $library == "$prefix"/* || -e $root/$library ]] || install -D "$(readlink -f "$library")" "$root/$library"
    done
done
# What Debian's own `libc6`, `libgcc-s1` and `libstdc++6` have, whoever asks for it.
for library in libc.so.6 libm.so.6 librt.so.1 libdl.so.2 libpthread.so.0 libutil.so.1 libresolv.so.2 \
    libnss_dns.so.2 libnss_files.so.2 libgcc_s.so.1 libstdc++.so.6; do
    found=$(ldconfig -p | sed -n "s|.*$library (libc6,x86-64).* => ||p" | head -1)
    [[ -z $found || -e $root/$found ]] || install -D "$(readlink -f "$found")" "$root/$found"
done
echo 'root:x:0:0:root:/root:/bin/sh' > "$root/etc/passwd"
echo 'root:x:0:' > "$root/etc/group"
touch "$root"/etc/{shadow,gshadow}
cp /etc/login.defs "$root/etc/"
# How packages are reached from here.
[[ ! -e /etc/pip.conf ]] || cp /etc/pip.conf "$root/etc/"
install -D /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo /usr/local/lib > "$root/etc/ld.so.conf"
chroot "$root" /usr/sbin/ldconfig
ln -sf "python$here" "$root/usr/local/bin/python"
chroot "$root" /usr/local/bin/python -m ensurepip --altinstall > /dev/null
buildah config --env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin --env LANG=C.UTF-8 "$base"
buildah commit --quiet "$base" "$tag-base" > /dev/null

# ---- the image

mkdir "$scratch/context"
cp -r Dockerfile .dockerignore consumer contracts pipeline_steps requirements pyproject.toml README.md LICENSE \
    "$scratch/context"
sed -i '/^#\|^cuda-pathfinder==/!d' "$scratch/context/requirements/torch.txt"
build() {
    buildah bud --quiet --layers --build-arg "PYTHON=$tag-base" --build-arg VERSION=try --tag "$1" "${@:2}" \
        "$scratch/context" > /dev/null
}
build "$tag"

# ---- what came of it

container=$(buildah from "$tag")
inside() { buildah run "$container" -- "$@"; }
refused() { if inside "$@" > /dev/null 2>&1; then echo "$*: was expected to fail" >&2; exit 1; fi; }

inside mlworker --version
inside mlworker steps > /dev/null
# All that needs no network: settings, packaged pipelines and models, and how they fit together.
inside env GOOGLE_CLOUD_PROJECT=nursery SUBSCRIPTION=requests RESULTS_TOPIC=results DEAD_LETTER_TOPIC=dead-letters \
    BUCKET=nursery-photos BACKEND_URL=https://backend.example.com PUBSUB_EMULATOR_HOST=127.0.0.1:8085 \
    DEVICES=simulated MODEL_PATH=demo mlworker doctor --offline
# All but torch is there, in the versions that all others ask for.
inside python - < tools/check_image.py
[[ $(inside python -c 'import os; print(os.getuid(), os.getgid())') == '65532 65532' ]]
refused touch /usr/local/here
refused touch /usr/local/lib/python"$here"/site-packages/consumer/here.py
refused python -m pip --version

# Of the base, torch, user, libraries and worker; the third has the day in it on which a user was made.
layers() {
    buildah inspect --type image --format '{{range .OCIv1.RootFS.DiffIDs}}{{println .}}{{end}}' "$1" | sed -n '2p;4p;5p'
}
if [[ ${1:-} == --twice ]]; then
    build "$tag-again" --no-cache
    [[ $(layers "$tag") == "$(layers "$tag-again")" ]] || { echo "two builds have different layers" >&2; exit 1; }
    echo "a second build has the same layers"
fi
echo "the image was built, and mlworker runs in it"
