"""Data sets: reading, checking, augmenting and sampling."""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        'CocoPromptDataset': '.coco',
        'ImageCache': '.image_cache',
        'LVISPromptDataset': '.lvis',
        'LoadResizedImage': '.resized_image',
        'ODVGPromptDataset': '.odvg',
        'PasteInstances': '.paste',
        'ResumableBatchSampler': '.samplers',
        'SameSourceMosaic': '.mosaic',
        'SeededPipelineMixin': '.seeding',
        'SharedClassBatchSampler': '.shared_class_batches',
        'SourceBatchSampler': '.source_batches',
        'ZipBackend': '.zip_backend',
    },
)
