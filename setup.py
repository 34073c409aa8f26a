"""Packaging of mmkd: what it supports. What it was tested with is in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# The supported ranges, each stated here and nowhere else.
SUPPORTED = {
    'python': '>=3.10,<3.13',
    'torch': '>=2.5',
    'numpy': '>=1.24,<3',
    'safetensors': '>=0.4',
    'rich': '>=13',
    'onedl-mmengine': '>=0.10.12,<0.11',
    'onedl-mmcv': '>=2.3.6,<2.4',
    'onedl-mmdetection': '>=3.5.1,<4',
    'onedl-mmsegmentation': '>=1.4.2,<2',
    'pandas': '>=2',
    'pytest': '>=8',
    'pytest-xdist': '>=3.5',
    'ruff': '>=0.17',
    'scikit-learn': '>=1.5',
    'matplotlib': '>=3.8',
    'plotly': '>=6',
    'onnx': '>=1.17',
    'onnxruntime': '>=1.20',
    'onnxscript': '>=0.5',
    'transformers': '>=4.56,<6',
    'submitit': '>=1.5',
    'mkdocs-material': '>=9.6,<10',
    'mkdocstrings': '>=0.28,<2',
    'mkdocstrings-python': '>=1.14,<3',
    'latex2mathml': '>=3.77,<4',
}


def ranged(*names: str) -> list[str]:
    """Write requirements with their supported ranges."""
    return [name + SUPPORTED[name] for name in names]


# mmengine, mmcv, mmdet and mmseg exist twice under the same import names: OpenMMLab's own releases
# and their maintained continuation (onedl-*). A hard requirement on either would overwrite the
# other in a user's environment, so only the extras name them.
DET = ranged('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection')
SEG = ranged('onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation')

version = {}
exec((ROOT / 'mmkd' / 'version.py').read_text(), version)

setup(
    name='mmkd',
    version=version['__version__'],
    description='Knowledge distillation for dense prediction on the OpenMMLab stack',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=find_packages(include=['mmkd', 'mmkd.*']),
    # In a clone mmkd/.mim links to configs/ and tools/; a wheel holds their files there, which is
    # where mmengine looks for `mmkd::...` and mim for its tools.
    package_data={
        'mmkd': [
            '.mim/model-index.yml',
            '.mim/configs/**/*.py',
            '.mim/configs/**/*.yml',
            '.mim/tools/*.py',
            '.mim/tools/dataset_converters/*.py',
            '.mim/tools/dist_*.sh',
            '.mim/tools/slurm_*.sh',
        ]
    },
    exclude_package_data={'mmkd': ['.mim/tools/model_index.py']},
    python_requires=SUPPORTED['python'],
    install_requires=ranged('torch', 'numpy', 'safetensors', 'rich'),
    extras_require=dict(
        det=DET,
        seg=SEG,
        all=sorted({*DET, *SEG}),
        dev=ranged(
            'pytest',
            'pytest-xdist',
            'ruff',
            'scikit-learn',
            'matplotlib',
            'pandas',
            'plotly',
            'submitit',
        ),
        docs=ranged('mkdocs-material', 'mkdocstrings', 'mkdocstrings-python', 'latex2mathml'),
        onnx=ranged('onnx', 'onnxruntime', 'onnxscript'),  # tools/export_onnx.py
        foundation=ranged('transformers'),  # teachers of type mmkd.FoundationBackbone
        slurm=ranged('submitit'),  # tools/compare.py --executor slurm
    ),
)
